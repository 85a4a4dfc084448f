"""Every error that a caller can meet, typed once. Knows no HTTP, no queue and no exit code: entry points translate.

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
    """An error with a stable code and a message that says what was expected and what was received."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, field: str | None = None) -> None:
        """`field`: the name of the request's field that the error is about, if it is about one."""
        self.field = field
        self.message = message.encode("utf-8", "backslashreplace").decode()  # a lone surrogate would break every sender
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def as_dict(self) -> dict[str, str | bool]:
        """Return the error as every JSON interface sends it."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


class InvalidRequest(AsrError):
    """The request does not have the expected form."""

    code = "invalid_request"


class Unauthorized(AsrError):
    """The request carries no valid key."""

    code = "unauthorized"


class ModelNotFound(AsrError):
    """The request names a model that this process does not have."""

    code = "model_not_found"


class MediaError(AsrError):
    """The bytes arrived, but no audio can be decoded from them."""


class UnsupportedMedia(MediaError):
    """The bytes are in no supported audio or video format."""

    code = "unsupported_media"


class NoAudioStream(MediaError):
    """A media file without audio: it has no audio stream, or no samples."""

    code = "no_audio_stream"


class CorruptMedia(MediaError):
    """A known format whose content cannot be decoded."""

    code = "corrupt_media"


class TooLarge(AsrError):
    """The file has more bytes than the limit."""

    code = "too_large"


class TooLong(AsrError):
    """The audio has more seconds than the limit."""

    code = "too_long"


class DownloadBlocked(AsrError):
    """An address that this worker refuses to reach."""

    code = "download_blocked"


class DownloadFailed(AsrError):
    """The server of the audio did not deliver it."""

    code = "download_failed"
    retryable = True


class UploadFailed(AsrError):
    """The upload target of a result did not accept it."""

    code = "upload_failed"
    retryable = True


class ModelUnavailable(AsrError):
    """The model's files are missing, incomplete, or in no supported format."""

    code = "model_unavailable"
    retryable = True


class Overloaded(AsrError):
    """More requests are in work than the limit allows."""

    code = "overloaded"
    retryable = True


class DeadlineExceeded(AsrError):
    """The request took longer than its time limit."""

    code = "deadline_exceeded"
    retryable = True


class Cancelled(AsrError):
    """The request was cancelled by its caller, or by a shutdown."""

    code = "cancelled"


class OutOfMemory(AsrError):
    """The device has too little memory for the work."""

    code = "out_of_memory"
    retryable = True


class Internal(AsrError):
    """A fault of this program."""

    code = "internal"


class DeviceLost(Internal):
    """The device cannot be used by this process any more; another process may succeed."""

    code = "device_lost"
    retryable = True


def all_kinds(root: type[AsrError] = AsrError) -> set[type[AsrError]]:
    """Return every class of the tree, `root` included."""
    return {root}.union(*map(all_kinds, root.__subclasses__()))
