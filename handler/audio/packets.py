"""Read the packets of a container that PyAV has opened, past what is damaged. Knows no codec."""

from collections.abc import Callable, Iterator
from typing import Any


def read_packets(container: Any, note_failure: Callable[[], None]) -> Iterator[Any]:
    """Yield the packets of all streams, until the end of the file or two failures in a row.

    `note_failure` is called for each packet that cannot be read.
    """
    import av.error

    packets = container.demux()
    has_failed = False
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        except IndexError:  # PyAV does not know a stream that begins in the middle of the file
            packets = container.demux()
        except av.error.FFmpegError:  # of memory, too, if a packet is said to have more bytes than there can be
            note_failure()
            if has_failed:
                return
            packets, has_failed = container.demux(), True
        else:
            has_failed = False
            yield packet
