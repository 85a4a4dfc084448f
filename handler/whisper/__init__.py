"""Whisper, our own: network, weights, tokens, rules and engine."""
