"""Tests of handler/whisper."""
