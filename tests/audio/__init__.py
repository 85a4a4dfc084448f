"""Tests of handler/audio."""
