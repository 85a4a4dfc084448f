"""Tests of handler/tokens."""
