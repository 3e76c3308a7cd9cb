"""Vocabularies: tokens, and the rules that turn text into them."""
