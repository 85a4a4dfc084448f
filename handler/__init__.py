"""Serverless speech-to-text: one engine behind a queue, an HTTP server and a command line. Importing this loads nothing heavy."""

__version__ = "0.1.0"
