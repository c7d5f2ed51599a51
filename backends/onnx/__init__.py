"""A graph as a folder that onnxruntime and onnxruntime-genai open."""
