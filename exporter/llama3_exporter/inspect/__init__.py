"""The facts about a GGUF or an export, and the pages that show them."""
