"""A reader of GGUF files that does not trust them."""
