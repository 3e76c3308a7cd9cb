"""Tokenizers for other programs, as JSON, a SentencePiece model, or graphs."""
