"""Tests of handler/output."""
