"""Tests of handler/schema."""
