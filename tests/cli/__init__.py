"""Tests of handler/cli."""
