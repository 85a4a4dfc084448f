"""From a cold process to a warm pipeline."""
