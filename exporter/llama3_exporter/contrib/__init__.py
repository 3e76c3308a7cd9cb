"""The backend of ONNX Runtime's own ops over repacked weights."""
