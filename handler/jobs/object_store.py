"""Upload results to an S3 bucket, or to a URL that accepts them by PUT. Knows no job and no transcript.

A URL from a job is checked by the guard of downloads. This guard refuses hosts with private addresses.
Errors of libraries are replaced by errors of this project. The libraries' messages are left out, because they may
contain credentials.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from handler.audio.fetch import GUARD, public_url, refusal
from handler.errors import DownloadFailed, InvalidRequest, UploadFailed
from handler.runpod_sdk import import_sdk

CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 10.0, 60.0
URL_LIFETIME_S = 7 * 24 * 3600  # of a signed URL; S3 allows no more
MAX_RESPONSE_BYTES = 64 * 1024  # bytes of a response that are read, so that its connection closes cleanly
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
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidRequest("upload_url must be an http:// or https:// address", "upload_url")
    host = parts.netloc.rpartition("@")[2]
    return UploadTarget(url, urlunsplit((parts.scheme, host, parts.path, "", "")), is_guarded=True)


def upload(body: bytes, target: UploadTarget) -> None:
    """PUT a JSON body to a target and wait for the response. Raises UploadFailed, or DownloadBlocked by the guard."""
    import requests
    from urllib3.exceptions import HTTPError

    guard = import_sdk(GUARD)
    public_target = public_url(target.put_url)
    failure = "no address answered"
    for ip_address in _resolve(target, public_target):
        try:
            status = _put(requests, guard, body, target.put_url, ip_address)
        except requests.ConnectionError as exc:  # the next address may be reachable
            failure = type(exc).__name__
        except (requests.RequestException, HTTPError, ValueError) as exc:
            raise UploadFailed(f"{public_target} did not take the result: {type(exc).__name__}") from None
        else:
            if status not in _SUCCESS_STATUSES:
                raise UploadFailed(f"{public_target} answered with status {status}; expected 200")
            return
    expected = "expected an address that takes the result by PUT"
    raise UploadFailed(f"{public_target} could not be reached ({failure}); {expected}")


def _resolve(target: UploadTarget, public_target: str) -> list[str | None]:
    """Return the IP addresses of a guarded target's host, which the guard has checked.

    Return [None], which stands for the usual name lookup, if the target is not guarded. Raises DownloadBlocked or
    UploadFailed.
    """
    if not target.is_guarded:
        return [None]
    guard = import_sdk(GUARD)
    parts = urlsplit(target.put_url)
    try:
        return list(guard.resolve_and_validate(parts.hostname, _port_of(parts)))
    except guard.SSRFError as exc:
        error = refusal(str(exc), public_target, 0)
        if isinstance(error, DownloadFailed):
            raise UploadFailed(error.message) from None
        raise error from None
    except UnicodeError:
        raise UploadFailed(f"{public_target}: its host is not known") from None


def _port_of(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _put(requests: Any, guard: Any, body: bytes, url: str, ip_address: str | None) -> int:
    """PUT a body to a URL and return the status of the response.

    Connect to `ip_address` instead of looking up the URL's host name, unless `ip_address` is None.
    """
    with requests.Session() as session:
        if ip_address is not None:
            session.trust_env = False  # a proxy would resolve the name itself
            for scheme in ("http://", "https://"):
                session.mount(scheme, guard.PinnedIPAdapter(ip_address))
        headers = {"Content-Type": "application/json"}
        timeouts_s = (CONNECT_TIMEOUT_S, RESPONSE_TIMEOUT_S)
        with session.put(
            url, data=body, headers=headers, timeout=timeouts_s, allow_redirects=False, stream=True
        ) as response:
            response.raw.read(MAX_RESPONSE_BYTES)
            return int(response.status_code)
