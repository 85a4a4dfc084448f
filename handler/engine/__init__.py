"""One device that many requests share; knows no model."""
