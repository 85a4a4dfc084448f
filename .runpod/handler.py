"""What RunPod's Hub looks for: the queue worker, as `python -m handler` starts it."""

import runpy
import sys

if __name__ == "__main__":
    sys.path[0] = ""  # here this file would be taken for the package
    runpy.run_module("handler", run_name="__main__")
