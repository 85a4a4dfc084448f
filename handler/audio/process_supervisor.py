"""Fork audio processes: `python -m handler.audio.process_supervisor DESCRIPTOR`.

The supervisor is a small process of its own that imports the libraries that read media once, and forks itself for each
file. It has no settings and no secrets in its environment. It must have one thread only, because a fork copies no
others. Knows no format of audio.
"""

import gc
import os
import signal
import socket
import sys

from handler.audio.process_messages import MAX_DESCRIPTORS, Disconnected, close_all, receive, send


def main() -> None:
    """Answer requests on the channel with the given descriptor until the serving process is gone."""
    # Signals to the whole group are for the serving process, which may still finish its work. Its end ends this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    supervisor = Supervisor(channel)
    try:
        supervisor.prepare()
        while True:
            supervisor.answer()
    except Disconnected:
        supervisor.end_all()


class Supervisor:
    """Forks audio processes and ends them, as the serving process asks on `channel`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._running: set[int] = set()  # process ids that were not reaped yet
        self._ending: set[int] = set()  # those of them that were told to end

    def prepare(self) -> None:
        """Import what an audio process needs, so that a fork of this process has it at once."""
        try:
            import av.error  # noqa: F401
            import soundfile  # noqa: F401

            from handler.audio import process_worker  # noqa: F401
            from handler.audio.silero import load_silero

            load_silero()
        except Exception as exc:  # of any kind: a library that is damaged raises what it likes
            send(self._channel, {"failed": f"{type(exc).__name__}: {exc}"[:1000]})
            raise Disconnected from exc
        gc.collect()
        gc.freeze()  # a collection in a fork would copy the memory that it shares with this process
        send(self._channel, {"ready": True})

    def answer(self) -> None:
        """Wait for a request and answer it. Raises Disconnected."""
        message, descriptors = receive(self._channel, MAX_DESCRIPTORS)
        self._reap()
        if "fork" in message:
            self._fork(descriptors)
        elif "end" in message:
            self._end(message["end"], message["report"])

    def _fork(self, descriptors: list[int]) -> None:
        """Fork a process that decodes one file, and answer with its id."""
        try:
            pid = os.fork()
        except OSError as exc:
            close_all(descriptors)
            send(self._channel, {"failed": exc.strerror})
            return
        if pid == 0:
            from handler.audio.process_worker import run

            self._channel.close()
            run(socket.socket(fileno=descriptors[0]))
        close_all(descriptors)
        self._running.add(pid)
        send(self._channel, {"pid": pid})

    def _end(self, pid: int, report: bool) -> None:
        """End a process. With `report`, wait until it is gone, and answer with the signal that ended it, or 0."""
        if pid in self._running:
            os.kill(pid, signal.SIGKILL)  # the id is not in use again, because the process was not reaped yet
            self._ending.add(pid)
        if report:
            status = 0
            if pid in self._running:
                _, status = os.waitpid(pid, 0)
                self._forget(pid)
            send(self._channel, {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0})

    def _reap(self) -> None:
        """Reap the processes that were told to end and are gone."""
        for pid in tuple(self._ending):
            reaped, _ = os.waitpid(pid, os.WNOHANG)
            if reaped:
                self._forget(pid)

    def _forget(self, pid: int) -> None:
        self._running.discard(pid)
        self._ending.discard(pid)

    def end_all(self) -> None:
        """End all processes."""
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
