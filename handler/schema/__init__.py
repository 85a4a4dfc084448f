"""What goes in and what comes out of a transcription; no I/O."""
