"""A transcript as others read it."""
