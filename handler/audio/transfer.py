"""The connection of one download or upload, which another thread can end at any moment. Knows no protocol.

A wait for a connection, for TLS, for headers or for bytes ends when the socket is shut down. Only the lookup of a name
cannot be ended; the system's resolver limits its duration.
"""

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from handler.errors import Cancelled, StorageFull

ADDRESS_TIMEOUT_S = 10.0  # longest wait for one of the addresses of a host
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Transfer:
    """Opens the connections of one download or upload, one after the other. `abort` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A duplicate of the current connection's socket. TLS takes the descriptor away from the original.
        self._handle: socket.socket | None = None
        self._is_aborted = False

    @property
    def is_aborted(self) -> bool:
        """Return whether `abort` was called."""
        return self._is_aborted

    def abort(self) -> None:
        """End the current connection, and refuse to open another one. A thread that waits for it goes on at once."""
        with self._lock:
            self._is_aborted = True
            if self._handle is not None:
                with suppress(OSError):  # the other side may have ended the connection already
                    self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the handle of the last connection."""
        with self._lock:
            self._keep(None)

    @contextmanager
    def limited_to(self, seconds: float, on_expiry: Callable[[], None]) -> Iterator[None]:
        """Call `on_expiry` and abort if the block is still running after `seconds`."""

        def expire() -> None:
            on_expiry()
            self.abort()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def connect(self, hosts: Iterable[str], port: int, timeout_s: float) -> socket.socket:
        """Return a connection to the first of some hosts that answers.

        `hosts` are names or IP addresses. The whole call takes at most `timeout_s`, besides lookups of names. Later
        waits on the connection take at most `timeout_s` each. Raises OSError for the last address, Cancelled after
        `abort`, and StorageFull if the process cannot open any more sockets.
        """
        give_up_at = time.monotonic() + timeout_s
        error: OSError = TimeoutError("no address answered in time")
        for host in hosts:
            for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                remaining_s = give_up_at - time.monotonic()
                if remaining_s <= 0:
                    raise error
                try:
                    connection = self._open(family, kind, protocol)
                    _connect(connection, address, min(ADDRESS_TIMEOUT_S, remaining_s), timeout_s)
                except OSError as exc:
                    error = exc
                else:
                    self._check_open(connection)  # to shut a socket down can look like a connection
                    return connection
                self._check_open()
        raise error

    def _open(self, family: int, kind: int, protocol: int) -> socket.socket:
        """Create a socket that `abort` can end. Raises OSError, Cancelled and StorageFull."""
        try:
            connection = socket.socket(family, kind, protocol)
            try:
                handle = connection.dup()
            except OSError:
                connection.close()
                raise
        except OSError as exc:
            if exc.errno in _NO_DESCRIPTORS:
                raise StorageFull("expected a free file descriptor for a connection; there is none left") from exc
            raise
        with self._lock:
            self._keep(handle)
        self._check_open(connection)
        return connection

    def _keep(self, handle: socket.socket | None) -> None:
        """Replace the handle of the current connection. Call this only while the lock is held."""
        if self._handle is not None:
            self._handle.close()
        self._handle = handle

    def _check_open(self, connection: socket.socket | None = None) -> None:
        """Raise Cancelled after `abort`, and close the connection then."""
        if self._is_aborted:
            if connection is not None:
                connection.close()
            raise Cancelled("nobody waits for the transfer any more")


def _connect(connection: socket.socket, address: object, connect_s: float, wait_s: float) -> None:
    """Connect a socket within `connect_s`, and limit its later waits to `wait_s`. Close it on an error."""
    try:
        connection.settimeout(connect_s)
        connection.connect(address)  # type: ignore[arg-type]  # as getaddrinfo returned it
        connection.settimeout(wait_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
