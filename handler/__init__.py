"""Serverless speech-to-text: one engine behind a queue, an HTTP server and a command line. Importing this loads nothing heavy."""

import time

__version__ = "0.1.0"
ARRIVED = time.perf_counter()  # when the interpreter came to this package
