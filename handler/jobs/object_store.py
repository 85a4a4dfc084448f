"""Upload results to an S3 bucket, or to a URL that accepts them by PUT. Knows no job and no transcript.

A URL from a job is checked by the guard of downloads. This guard refuses hosts with private addresses.
Errors of libraries are replaced by errors of this project. The libraries' messages are left out, because they may
contain credentials.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from handler.audio.http_upload import JSON_TYPE, send_body
from handler.audio.transfer import Transfer
from handler.errors import InvalidRequest

RESPONSE_TIMEOUT_S = 60.0  # longest wait for a connection, for room to send more, and for the next bytes of a response
URL_LIFETIME_S = 7 * 24 * 3600  # of a signed URL; S3 allows no more
DEFAULT_REGION = "us-east-1"
_REGION = re.compile(r"\bs3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-\d+)\.")
_SUCCESS_STATUSES = (200, 201, 202, 204)


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """The URLs for storing a result and for reading it."""

    put_url: str
    read_url: str
    is_guarded: bool  # whether `put_url` comes from a job, so that its host has to be public


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket on an S3 service. The repr contains the bucket's name, and never the secret key."""

    endpoint_url: str
    name: str
    access_key_id: str
    secret_access_key: str
    region: str | None = None  # None: the region in `endpoint_url`, or DEFAULT_REGION if it has none

    def __repr__(self) -> str:
        return f"Bucket({self.name})"

    def sign_target(self, key: str, is_guarded: bool) -> UploadTarget:
        """Return signed URLs for storing and reading the object `key`.

        The URLs are computed without a request to the service. `is_guarded` is whether the host of the service has to
        be public. Raises InvalidRequest if the bucket's address or name cannot be used.
        """
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        try:
            client = boto3.client(
                "s3",
                endpoint_url=self.endpoint_url,
                aws_access_key_id=self.access_key_id,
                aws_secret_access_key=self.secret_access_key,
                region_name=self.region or _region_of(self.endpoint_url),
                config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
            )
            params = {"Bucket": self.name, "Key": key}
            put_url = client.generate_presigned_url("put_object", Params=params, ExpiresIn=URL_LIFETIME_S)
            read_url = client.generate_presigned_url("get_object", Params=params, ExpiresIn=URL_LIFETIME_S)
        except (BotoCoreError, ValueError) as exc:
            message = f"the bucket's address or name cannot be used: {type(exc).__name__}"
            raise InvalidRequest(message) from None
        return UploadTarget(put_url, read_url, is_guarded)


def _region_of(endpoint_url: str) -> str:
    match = _REGION.search(endpoint_url)
    return match[1] if match else DEFAULT_REGION


def parse_upload_url(url: str) -> UploadTarget:
    """Return the target for a URL that accepts a result by PUT.

    The target's `read_url` is `url` without its user name, password, query and fragment, because they may be
    credentials. Raises InvalidRequest if `url` is not a valid http or https URL.
    """
    from requests import Request, RequestException

    try:
        url.encode()  # half a character cannot be sent
        Request("PUT", url).prepare()
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, RequestException):
        is_valid = False
    if not is_valid:
        raise InvalidRequest("upload_url must be an http:// or https:// address", "upload_url")
    host = parts.netloc.rpartition("@")[2]
    return UploadTarget(url, urlunsplit((parts.scheme, host, parts.path, "", "")), is_guarded=True)


def upload(body: bytes, target: UploadTarget, transfer: Transfer) -> None:
    """PUT a JSON body to a target over a connection of `transfer`, and wait for the status of the response.

    Raises UploadFailed, UploadRefused, or DownloadBlocked by the address guard.
    """
    url, guarded = target.put_url, target.is_guarded
    send_body(transfer, "PUT", url, body, JSON_TYPE, _SUCCESS_STATUSES, RESPONSE_TIMEOUT_S, is_guarded=guarded)
