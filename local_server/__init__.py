"""The always-on HTTP server."""
