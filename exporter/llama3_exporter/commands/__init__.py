"""The commands `llama3-export` and `llama3-inspect`."""
