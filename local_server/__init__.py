"""The HTTP server, which keeps the model loaded."""
