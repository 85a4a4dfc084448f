"""Serverless speech-to-text: one engine for a job queue, an HTTP server and a command line.

Importing this package imports no large library.
"""

import time

__version__ = "0.1.0"
ARRIVED = time.perf_counter()  # when the interpreter reached this package
ARRIVED_CPU_S = time.process_time()  # seconds of processor time that this process had used by then
