"""Explanations: what is to be explained, what explains it, and the picture of that."""
