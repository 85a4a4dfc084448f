"""Tests of handler/transcription."""
