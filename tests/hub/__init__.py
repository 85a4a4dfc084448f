"""Tests of handler/hub."""
