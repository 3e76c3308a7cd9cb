"""The commands `llama3-run` and `llama3-bench`."""
