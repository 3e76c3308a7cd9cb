"""What every test can use: the embedded model's file and the real vocabularies."""
