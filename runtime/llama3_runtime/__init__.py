"""Runs an exported graph on ONNX Runtime: from a prompt to text."""
