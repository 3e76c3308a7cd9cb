"""Reads GGUF files without trusting them."""
