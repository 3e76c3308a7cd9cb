"""Where weights come from: the catalogue of models and the GGUF files themselves."""
