"""`python -m handler`: the RunPod worker. Without a queue it runs test_input.json once, as the SDK does."""

import os
import sys

from handler.errors import AsrError
from handler.settings import SettingsError

CANNOT_START = 3  # exit code: a setting or the model, as stderr says


def main() -> None:
    """Load the model, then serve the queue until the platform ends the process."""
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")  # its own default logs every result whole
    try:
        from handler import worker
    except (AsrError, SettingsError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        sys.exit(CANNOT_START)
    from handler.sdk import sdk

    # Constant, since the SDK waits until it is idle to change it; some wait while others are decoded.
    concurrency = min(worker.settings.max_requests, 4 * worker.pipeline.engine.rows)
    sdk().serverless.start({"handler": worker.handler, "concurrency_modifier": lambda current: concurrency})


if __name__ == "__main__":
    main()
