"""What a run leaves to look at: pictures, and pages of examples."""
