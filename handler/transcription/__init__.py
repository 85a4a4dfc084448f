"""Turn the audio of one request into its transcript. Knows no model and no entry point."""
