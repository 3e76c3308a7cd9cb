"""Speed and quality, compared with other engines."""
