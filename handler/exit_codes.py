"""Exit codes, which mean the same for every entry point."""

FAILED = 1  # a source could not be transcribed
CANNOT_START = 3  # a setting, the model or the port cannot be used; stderr says why
DEVICE_LOST = 4  # this process can no longer use the device
DECODING_LOST = 5  # this process can no longer decode audio
INTERRUPTED = 130  # ended by SIGINT
