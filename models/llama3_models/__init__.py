"""Where weights come from: the catalog of models and the GGUF files themselves."""
