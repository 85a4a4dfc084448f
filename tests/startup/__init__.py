"""Tests of handler/startup."""
