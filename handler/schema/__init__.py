"""The input and the output of a transcription: options, windows and transcripts. Does no I/O."""
