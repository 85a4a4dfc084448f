"""Schemas of requests and responses, for /docs."""
