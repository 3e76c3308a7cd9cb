"""Text to token ids, and streams of token ids to text."""
