"""Receive request bodies and parse them while they arrive."""
