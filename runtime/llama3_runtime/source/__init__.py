"""From what a user calls a model to an export that can be loaded."""
