"""Tests of handler/editing."""
