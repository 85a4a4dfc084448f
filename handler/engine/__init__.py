"""Sharing of one device among many requests. Knows no model."""
