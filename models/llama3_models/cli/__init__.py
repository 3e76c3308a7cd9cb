"""A typed function as a command: options, help and exit statuses."""
