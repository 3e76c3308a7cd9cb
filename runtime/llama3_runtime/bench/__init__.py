"""Speed and quality, beside other engines."""
