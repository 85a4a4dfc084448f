"""The file object through which FFmpeg reads a media file. Knows no codec."""

import io

from handler.audio.media_file import MediaFile
from handler.audio.mp4_boxes import Mp4Boxes
from handler.errors import MediaError


class FFmpegFile:
    """A file object for FFmpeg.

    A read returns as soon as any bytes have arrived. A seek relative to the end fails until the whole file has arrived.

    If the file is an MP4 file, `boxes` checks its boxes before FFmpeg sees them. FFmpeg cannot pass an error of a read
    on, so the file ends before the first box that is refused, and `check` raises the error.
    """

    def __init__(self, file: MediaFile, boxes: Mp4Boxes | None, states_size: bool = True) -> None:
        """Create a file object. Without `states_size`, seeks relative to the end fail always."""
        self.tell = file.tell
        self._states_size = states_size
        self._file = file
        self._boxes = boxes
        self._error: MediaError | None = None

    def read(self, size: int) -> bytes:
        """Wait for at least one byte, and return at most `size` bytes. Return b"" at the end of the file."""
        if self._error is not None:
            return b""
        data = self._file.read_available(size)
        if self._boxes is not None:
            try:
                self._boxes.check_until(self._file.tell())
            except MediaError as exc:
                self._error = exc
                return b""
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return that position as counted from the start of the file.

        With io.SEEK_END, return −1 without moving if the file has not arrived completely. Demuxers seek to the end to
        measure the length of a file, and work without knowing the length.
        """
        if whence == io.SEEK_END and not (self._states_size and self._file.is_complete):
            return -1
        return self._file.seek(offset, whence)

    def check(self) -> None:
        """Raise the error because of which the file ended, if there is one. Raises MediaError."""
        if self._error is not None:
            raise self._error
