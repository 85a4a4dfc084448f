"""Every error that a caller can meet, typed once. Knows no HTTP, no queue and no exit code: the doors translate.

AsrError
├── InvalidRequest         invalid_request
├── Unauthorized           unauthorized
├── ModelNotFound          model_not_found
├── MediaError
│   ├── UnsupportedMedia   unsupported_media
│   ├── NoAudioStream      no_audio_stream
│   └── CorruptMedia       corrupt_media
├── TooLarge               too_large
├── TooLong                too_long
├── DownloadBlocked        download_blocked
├── DownloadFailed         download_failed      (retryable)
├── UploadFailed           upload_failed        (retryable)
├── ModelUnavailable       model_unavailable    (retryable)
├── Overloaded             overloaded           (retryable)
├── DeadlineExceeded       deadline_exceeded    (retryable)
├── Cancelled              cancelled
├── OutOfMemory            out_of_memory        (retryable)
└── Internal               internal
    └── DeviceLost         device_lost          (retryable)
"""

from typing import ClassVar


class AsrError(Exception):
    """An error with a stable code, whose message says what was expected and what came."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, field: str | None = None) -> None:
        """`field`: the name of the request's field that the error is about, where it is about one."""
        self.field = field
        self.message = message.encode("utf-8", "backslashreplace").decode()  # half a character would break every sender
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def as_dict(self) -> dict[str, str | bool]:
        """The shape in which every JSON door shows it."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


class InvalidRequest(AsrError):
    """The request is not of the form that the door expects."""

    code = "invalid_request"


class Unauthorized(AsrError):
    """The request carries no valid key."""

    code = "unauthorized"


class ModelNotFound(AsrError):
    """The request names a model that this process does not have."""

    code = "model_not_found"


class MediaError(AsrError):
    """The bytes arrived, and no audio can be had from them."""


class UnsupportedMedia(MediaError):
    """The bytes are of no audio or video format that is known here."""

    code = "unsupported_media"


class NoAudioStream(MediaError):
    """A media file with no audio in it: no stream, or no samples."""

    code = "no_audio_stream"


class CorruptMedia(MediaError):
    """A known format whose content cannot be decoded."""

    code = "corrupt_media"


class TooLarge(AsrError):
    """More bytes than the cap."""

    code = "too_large"


class TooLong(AsrError):
    """More seconds of audio than the cap."""

    code = "too_long"


class DownloadBlocked(AsrError):
    """An address that this worker refuses to reach."""

    code = "download_blocked"


class DownloadFailed(AsrError):
    """The other side did not deliver."""

    code = "download_failed"
    retryable = True


class UploadFailed(AsrError):
    """The place that a result was to go to did not take it."""

    code = "upload_failed"
    retryable = True


class ModelUnavailable(AsrError):
    """The model's files are missing, incomplete, or not of a kind that is known here."""

    code = "model_unavailable"
    retryable = True


class Overloaded(AsrError):
    """More work is waiting than the bound allows."""

    code = "overloaded"
    retryable = True


class DeadlineExceeded(AsrError):
    """The time given to the request is over."""

    code = "deadline_exceeded"
    retryable = True


class Cancelled(AsrError):
    """Whoever asked does not want the answer any more."""

    code = "cancelled"


class OutOfMemory(AsrError):
    """The device has no room for the work."""

    code = "out_of_memory"
    retryable = True


class Internal(AsrError):
    """A fault of this program."""

    code = "internal"


class DeviceLost(Internal):
    """Nothing will run on the device any more; another process may do better."""

    code = "device_lost"
    retryable = True


def all_kinds(root: type[AsrError] = AsrError) -> set[type[AsrError]]:
    """Every class of the tree."""
    return {root}.union(*map(all_kinds, root.__subclasses__()))
