"""One device that many requests share. Knows no model."""
