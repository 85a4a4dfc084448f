"""Request bodies, read while they arrive."""
