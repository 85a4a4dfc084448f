"""Fetch the bytes of an audio source from http(s), S3 or base64 text. Knows no format and no request.

Addresses with http(s) pass the address guard. Exceptions of other libraries are converted to subclasses of AsrError.
The messages of the original exceptions are never passed on, because they contain full URLs, which may hold credentials.
"""

import io
from collections.abc import Generator
from contextlib import closing
from typing import BinaryIO

from handler import logs
from handler.audio.base64_text import decode_base64, decoded_size
from handler.audio.download_threads import DownloadThreads
from handler.audio.http_source import download_http
from handler.audio.s3_source import S3Source
from handler.audio.spool import Spool, SpoolBudget
from handler.audio.transfer import Transfer
from handler.audio.urls import public_url, scheme_of
from handler.errors import AsrError, DownloadFailed, InvalidRequest, Overloaded, StorageFull, TooLarge
from handler.runpod_sdk import import_sdk
from handler.settings import Settings
from handler.timeline import Timeline

CHUNK = 256 * 1024  # largest number of bytes read at a time
READ_TIMEOUT_S = 30.0  # longest wait for a connection, and for the next bytes


class Fetcher:
    """Downloads files into spools, within the limits on size and time that the settings give."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spool_budget = SpoolBudget(settings.max_spool_bytes)
        self._threads = DownloadThreads(settings.max_requests)
        self._s3 = S3Source(settings)

    @staticmethod
    def prepare() -> None:
        """Import what downloads need in advance, so that the first one does not have to wait for the imports."""
        from handler.audio import address_guard, http_client  # noqa: F401 - imported for later

        import_sdk(address_guard.GUARD)

    def spool(self, max_bytes: int | None = None) -> Spool:
        """Return an empty spool that accepts at most `max_bytes`, and at most as many bytes as the settings allow."""
        limit = self._settings.max_bytes
        return Spool(limit if max_bytes is None else min(max_bytes, limit), self._spool_budget)

    def decode_base64(self, text: str) -> BinaryIO:
        """Decode base64 text, which may be a data: URL, and return the bytes as a binary file.

        Raises InvalidRequest, TooLarge.
        """
        if decoded_size(text) > self._settings.max_bytes:
            raise TooLarge(f"expected at most {self._settings.max_bytes} bytes; got more")
        return io.BytesIO(decode_base64(text, "audio_base64"))

    @property
    def num_abandoned(self) -> int:
        """Return how many threads have not ended although their download is over, such as lookups of names."""
        return self._threads.num_abandoned

    def start(self, url: str, spool: Spool, timeline: Timeline | None = None) -> None:
        """Do the same as `fill` in a daemon thread of its own, and add its time to `timeline`. Returns at once."""

        def download(transfer: Transfer) -> None:
            if timeline is None:
                self.fill(url, spool, transfer)
            else:
                with timeline.span("download"):
                    self.fill(url, spool, transfer)

        try:
            self._threads.start(download)
        except Overloaded as exc:
            spool.finish(exc)

    def fill(self, url: str, spool: Spool, transfer: Transfer | None = None) -> None:
        """Download a file into a spool, and mark the spool as finished.

        An error of the download is not raised here. It is stored in the spool, whose `check` raises it. This blocks
        until the download ends. It ends at the latest after DOWNLOAD_TIMEOUT_S or when the spool is stopped, unless it
        is looking up a name. In that case, the spool ends, and this returns after the lookup.
        """
        error: AsrError | None = None
        transfer = transfer or Transfer()
        seconds = self._settings.download_timeout_s
        too_late = DownloadFailed(f"{public_url(url)} took longer than {seconds:g} s")
        try:
            self.prepare()  # before the time begins, because the first import takes longer than many downloads
            spool.on_stop(transfer.abort)
            with (
                transfer.limited_to(seconds, lambda: spool.finish(too_late)),
                closing(self._chunks(url, spool, transfer)) as chunks,
            ):
                for chunk in chunks:
                    spool.write(chunk)
        except AsrError as exc:
            error = exc
        except OSError as exc:  # those of the network are converted, so this one is the spool's
            error = StorageFull(f"the temporary folder does not take the file: {exc.strerror}")
        except Exception as exc:
            logs.error("download_crashed", exc, url=public_url(url))
            error = DownloadFailed(f"{public_url(url)} could not be read: {type(exc).__name__}")
        finally:
            transfer.close()
        spool.finish(error)

    def _chunks(self, url: str, spool: Spool, transfer: Transfer) -> Generator[bytes, None, None]:
        """Yield the bytes at a URL as they arrive. Raises AsrError."""
        timeout_s = min(READ_TIMEOUT_S, self._settings.download_timeout_s)
        scheme = scheme_of(url)
        if scheme == "s3":
            yield from self._s3.download(url, spool, transfer, CHUNK, timeout_s)
        elif scheme in ("http", "https"):
            yield from download_http(url, spool, transfer, CHUNK, timeout_s)
        else:
            prefix = public_url(url) or "none of them"
            raise InvalidRequest(f"url must begin with http://, https:// or s3://; got {prefix}", "url")
