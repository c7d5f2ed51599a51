"""ONNX decoders run: loading, decoding, sampling."""
