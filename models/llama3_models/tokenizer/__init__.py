"""Vocabularies: tokens, and the rules by which text becomes them."""
