"""Serverless speech-to-text: one engine for a job queue, an HTTP server and a command line.

Importing the package loads nothing heavy.
"""

import time

__version__ = "0.1.0"
ARRIVED = time.perf_counter()  # when the interpreter reached this package
ARRIVED_CPU_S = time.process_time()  # processor time that this process had used until then
