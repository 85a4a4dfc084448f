"""Any speech recognition model of the Hub but Whisper, through `transformers`. Knows no request."""
