"""Run downloads in threads that hold up neither a request nor the end of the process. Knows no protocol."""

import threading
from collections.abc import Callable

from handler.audio.transfer import Transfer
from handler.errors import Overloaded


class DownloadThreads:
    """Runs each download in a daemon thread of its own, because nothing can end the lookup of a name.

    A thread is abandoned when its download was aborted and the thread has not ended yet.
    """

    def __init__(self, max_abandoned: int) -> None:
        self._max_abandoned = max_abandoned
        self._lock = threading.Lock()
        self._transfers: set[Transfer] = set()  # of all threads that have not ended

    @property
    def num_abandoned(self) -> int:
        """Return how many threads are abandoned."""
        with self._lock:
            return sum(transfer.is_aborted for transfer in self._transfers)

    def start(self, work: Callable[[Transfer], None]) -> None:
        """Call `work` with a new transfer, in a new thread. Raises Overloaded if too many threads are abandoned."""
        num_abandoned = self.num_abandoned
        if num_abandoned >= self._max_abandoned:
            raise Overloaded(f"{num_abandoned} downloads wait for the lookup of a host's name; expected fewer")
        transfer = Transfer()
        with self._lock:
            self._transfers.add(transfer)
        try:
            threading.Thread(target=self._run, args=(work, transfer), name="download", daemon=True).start()
        except RuntimeError:  # the system allows no more threads
            self._forget(transfer)
            raise Overloaded("expected room for one more thread; this process has as many as it can have") from None

    def _run(self, work: Callable[[Transfer], None], transfer: Transfer) -> None:
        try:
            work(transfer)
        finally:
            transfer.close()
            self._forget(transfer)

    def _forget(self, transfer: Transfer) -> None:
        with self._lock:
            self._transfers.discard(transfer)
