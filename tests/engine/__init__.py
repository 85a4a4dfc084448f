"""Tests of handler/engine."""
