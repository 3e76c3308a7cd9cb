"""The export for a model that a user names."""
