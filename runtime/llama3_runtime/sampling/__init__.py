"""From a row of logits to the next token."""
