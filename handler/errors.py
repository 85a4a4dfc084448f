"""The types of all errors that a caller can receive. Knows no HTTP, no queue and no exit code.

Each entry point turns these errors into a form of its own, such as an HTTP status and a body.

AsrError
├── InvalidRequest         invalid_request
├── Unauthorized           unauthorized
├── ModelNotFound          model_not_found
├── JobNotFound            job_not_found
├── SessionNotFound        session_not_found
├── MediaError
│   ├── UnsupportedMedia   unsupported_media
│   ├── NoAudioStream      no_audio_stream
│   └── CorruptMedia       corrupt_media
├── TooLarge               too_large
├── TooLong                too_long
├── DownloadBlocked        download_blocked
├── DownloadFailed         download_failed      (retryable)
├── DownloadRefused        download_refused
├── UploadFailed           upload_failed        (retryable)
├── UploadRefused          upload_refused
├── ModelUnavailable       model_unavailable    (retryable)
├── Overloaded             overloaded           (retryable)
├── DeadlineExceeded       deadline_exceeded    (retryable)
├── Cancelled              cancelled
├── OutOfMemory            out_of_memory        (retryable)
├── StorageFull            storage_full         (retryable)
└── Internal               internal
    ├── DeviceLost         device_lost          (retryable)
    └── DecodingLost       decoding_lost        (retryable)
"""

from typing import ClassVar


class AsrError(Exception):
    """An error with a stable code and a message that says what was expected and what was received."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, field: str | None = None) -> None:
        """Create an error. `field` is the name of the request's field that caused the error, or None."""
        self.field = field
        self.message = message.encode("utf-8", "backslashreplace").decode()  # a lone surrogate would break every sender
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def as_dict(self) -> dict[str, str | bool]:
        """Return the error as the JSON object that every interface sends."""
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


class JobNotFound(AsrError):
    """The request names a job of the HTTP server that is not known, or not any more."""

    code = "job_not_found"


class SessionNotFound(AsrError):
    """No live session with this id can be resumed."""

    code = "session_not_found"


class MediaError(AsrError):
    """The bytes arrived, but no audio can be decoded from them."""


class UnsupportedMedia(MediaError):
    """The bytes are in no supported audio or video format."""

    code = "unsupported_media"


class NoAudioStream(MediaError):
    """The media file has no audio stream, or its audio stream has no samples."""

    code = "no_audio_stream"


class CorruptMedia(MediaError):
    """The format is known, but the content cannot be decoded."""

    code = "corrupt_media"


class TooLarge(AsrError):
    """A file, a request body or a result has more bytes than its limit."""

    code = "too_large"


class TooLong(AsrError):
    """The audio has more seconds than the limit."""

    code = "too_long"


class DownloadBlocked(AsrError):
    """The URL leads to a network address that this worker refuses to reach, such as a private one."""

    code = "download_blocked"


class DownloadFailed(AsrError):
    """The audio could not be read from its source, such as a web server."""

    code = "download_failed"
    retryable = True


class DownloadRefused(AsrError):
    """The source of the audio does not give it out, and would not do so later either, as with status 403 or 404."""

    code = "download_refused"


class UploadFailed(AsrError):
    """The result could not be uploaded."""

    code = "upload_failed"
    retryable = True


class UploadRefused(AsrError):
    """The place for the result does not take it, and would not do so later either, as with an expired signature."""

    code = "upload_refused"


class ModelUnavailable(AsrError):
    """The model is still being loaded, or its files are missing, incomplete or in an unsupported format."""

    code = "model_unavailable"
    retryable = True


class Overloaded(AsrError):
    """There are already as many concurrent requests as the limit allows."""

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
    """The device has too little memory for the model or for a request."""

    code = "out_of_memory"
    retryable = True


class StorageFull(AsrError):
    """The temporary folder or the memory has no room left for a file."""

    code = "storage_full"
    retryable = True


class Internal(AsrError):
    """This program has a fault."""

    code = "internal"


class DeviceLost(Internal):
    """This process can no longer use the device. Another process may succeed."""

    code = "device_lost"
    retryable = True


class DecodingLost(Internal):
    """This process can no longer decode audio. Another process may succeed."""

    code = "decoding_lost"
    retryable = True


def all_kinds(root: type[AsrError] = AsrError) -> set[type[AsrError]]:
    """Return `root` and all of its direct and indirect subclasses."""
    return {root}.union(*map(all_kinds, root.__subclasses__()))
