"""Training data: text files found, split, tokenized, packed once into a cache, and drawn as batches."""
