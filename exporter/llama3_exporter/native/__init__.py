"""The backend of our own ops over the GGUF's bytes."""
