"""The input and the output of a transcription: options, windows, transcripts. No I/O."""
