"""Tokenizers for other programs: as JSON, as a SentencePiece model, as graphs."""
