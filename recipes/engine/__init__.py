"""What every recipe runs on: the strategy, the optimizer, the loop around `model.fit`, and the run directory."""
