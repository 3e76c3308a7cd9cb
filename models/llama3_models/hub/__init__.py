"""Models by name: the catalogue, and downloads from the Hugging Face Hub."""
