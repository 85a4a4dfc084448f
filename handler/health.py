"""Check whether this container is healthy. Knows no model.

A server is asked on its route `/hc`. A queue worker is healthy as long as its process runs.
"""

import http.client
import os
import sys
from pathlib import Path

from handler.settings import Settings

FIRST_PROCESS = Path("/proc/1/cmdline")
STARTING = 204  # status of `/hc` while the server starts, if the platform set PORT_HEALTH


def main() -> int:
    """Return the exit code: 0 if the container is healthy, else 1.

    A server that is still starting counts as healthy only if the platform set PORT_HEALTH.
    """
    if b"local_server" not in FIRST_PROCESS.read_bytes():
        return 0  # the SDK reports a worker to the platform, and its process ends when it cannot continue
    settings = Settings.from_env(os.environ)
    host = "127.0.0.1" if settings.host == "*" else settings.host
    return 0 if status(host, settings.port) in (200, STARTING) else 1


def status(host: str, port: int) -> int | None:
    """Return the HTTP status of `/hc` on a host and port. Return None if nothing answers."""
    connection = http.client.HTTPConnection(host, port, timeout=4)
    try:
        connection.request("GET", "/hc")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
