"""Files of a Whisper checkpoint to weights, and what is kept of their conversion."""
