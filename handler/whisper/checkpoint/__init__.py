"""Read Whisper checkpoints of several layouts, and cache weights that had to be converted."""
