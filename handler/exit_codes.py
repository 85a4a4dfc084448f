"""Exit codes of every entry point, each with one meaning."""

FAILED = 1  # a source could not be transcribed
CANNOT_START = 3  # a setting, the model or the port cannot be used, as stderr says
DEVICE_LOST = 4  # nothing will run on the device any more
INTERRUPTED = 130  # ended by SIGINT
