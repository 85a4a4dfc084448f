"""A client on a bare socket, which can send what no HTTP library would send."""

import json
import socket
from dataclasses import dataclass
from typing import Any

from tests.support.serving import TIMEOUT_S, Server


@dataclass
class RawResponse:
    """A response as it was received. `headers` have names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error that the body holds as JSON."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class RawClient:
    """One connection to a server, open until its `with` block ends."""

    def __init__(self, server: Server, receive_buffer: int | None = None) -> None:
        """Connect to a server. `receive_buffer` is the size of the socket's buffer in bytes, None for the default."""
        host, port = server.url.removeprefix("http://").split(":")
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT_S)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect((host, int(port)))
        self._input = self._socket.makefile("rb")

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes. A server that has closed the connection is no error."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> RawResponse:
        """Receive one response. Its body must have a Content-Length."""
        status = int(self._input.readline().split()[1])
        headers = {}
        while line := self._input.readline().strip().decode("latin-1"):
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return RawResponse(status, headers, self._input.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        """Wait for the end of the connection, and return whether nothing came before it."""
        try:
            return self._input.read() == b""
        except ConnectionResetError:
            return True

    def can_send(self) -> bool:
        """Return whether the connection is still open for sending."""
        try:
            self._socket.sendall(b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True
