"""Side-by-side runs: what is claimed of speed and memory is measured here."""
