"""Messages between the serving process, the supervisor of the audio processes, and an audio process.

Each message is a JSON object of few bytes, and may carry file descriptors. An audio process reads what strangers send,
so nothing that comes from it is unpickled, and each value is checked. Knows no format of audio.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

MAX_MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 4  # largest number of file descriptors in one message
MAX_PIECE_SAMPLES = 256 * 1024  # samples in the shared memory of an audio process, all channels together
MAX_PIECE_FRAMES = 64 * 1024  # probabilities of speech that follow the samples there, all channels together
MAX_HELD_FRAMES = 128  # that have arrived, and whose probability of speech is not final; a detector holds about 100


class Disconnected(Exception):
    """The process at the other end is gone."""


def new_channel() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel. Raises OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message, and copies of file descriptors with it. Raises Disconnected."""
    data = json.dumps(message).encode()
    try:
        if descriptors:
            socket.send_fds(channel, [data], list(descriptors))
        else:
            channel.send(data)
    except OSError as exc:
        raise Disconnected from exc


def receive(channel: socket.socket, max_descriptors: int = 0) -> tuple[dict[str, Any], list[int]]:
    """Wait for a message, and return it with its file descriptors, which the caller closes.

    The system closes the descriptors of a message that has more than `max_descriptors`, or any if that is 0.
    Raises Disconnected if the other end is gone or sends anything else than a message, and TimeoutError if the channel
    has a timeout and nothing arrives within it.
    """
    descriptors: list[int] = []
    try:
        if max_descriptors:
            data, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, max_descriptors)
        else:
            data = channel.recv(MAX_MESSAGE_BYTES)
    except TimeoutError:
        raise
    except OSError as exc:
        raise Disconnected from exc
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        close_all(descriptors)
        raise Disconnected
    return message, descriptors


def close_all(descriptors: Sequence[int]) -> None:
    """Close file descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
