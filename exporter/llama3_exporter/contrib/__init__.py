"""The backend that uses ONNX Runtime's own ops on repacked weights."""
