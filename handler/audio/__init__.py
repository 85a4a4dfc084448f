"""Bytes to samples: fetching and decoding."""
