"""A graph in onnxruntime's own operators, in full or reduced precision."""
