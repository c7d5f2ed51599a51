"""A decoder laid out as transformers.js reads it: ONNX files by type of weights, and what is said of them."""
