"""Whether what runs in this container is well: a server by its `/hc`, a queue worker by being there. Knows no model."""

import http.client
import os
import sys
from pathlib import Path

from handler.settings import Settings

FIRST_PROCESS = Path("/proc/1/cmdline")
STARTING = 204  # where the platform has asked for it by PORT_HEALTH


def main() -> int:
    """0 where it is well, 1 where it is not or cannot take work yet."""
    if b"local_server" not in FIRST_PROCESS.read_bytes():
        return 0  # the SDK tells the platform of a worker, and its process ends where it cannot go on
    settings = Settings.from_env(os.environ)
    return 0 if status("127.0.0.1" if settings.host == "*" else settings.host, settings.port) in (200, STARTING) else 1


def status(host: str, port: int) -> int | None:
    """What `/hc` says at an address; None where nobody answers."""
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
