"""Tests: what a user would notice, on real weights and real audio."""
