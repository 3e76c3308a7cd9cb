"""What there is to know about a GGUF or an export, and how it is shown."""
