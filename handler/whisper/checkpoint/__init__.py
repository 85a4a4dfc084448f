"""Read Whisper checkpoints into weights, and cache those that had to be converted."""
