"""Models by name: the catalog, and downloads from the Hugging Face Hub."""
