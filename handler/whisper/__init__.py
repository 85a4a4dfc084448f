"""An implementation of Whisper: network, checkpoints, tokens, decoding rules and engine."""
