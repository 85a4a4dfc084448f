"""Results to a bucket or to an address that takes them by PUT. Knows no job and no transcript.

An address that a job names passes the same guard as a download; foreign errors are mapped here, their texts never passed on.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from handler.audio.fetch import GUARD, public_url, refusal
from handler.errors import DownloadFailed, InvalidRequest, UploadFailed
from handler.runpod_sdk import import_sdk

CONNECT_S, SILENCE_S = 10.0, 60.0  # longest wait for a connection, and for an answer
KEPT_S = 7 * 24 * 3600  # how long an address that was signed can be read: the longest that S3 allows
MOST_ANSWER = 64 * 1024  # bytes read of an answer, so that its connection can be closed in peace
_REGION = re.compile(r"\bs3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-\d+)\.")
_TAKEN = (200, 201, 202, 204)


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """Where a result goes, and where it can then be read."""

    put_url: str
    read_url: str
    guarded: bool  # a job names it: it has to be public


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket on an S3 service. Its secret is never shown."""

    endpoint_url: str
    name: str
    access_key_id: str
    secret_access_key: str
    region: str | None = None  # None: the one that the endpoint names, where it does

    def __repr__(self) -> str:
        return f"Bucket({self.name})"

    def place(self, key: str, guarded: bool) -> UploadTarget:
        """Addresses for an object, signed here: nobody is asked. Raises InvalidRequest."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        found = _REGION.search(self.endpoint_url)
        try:
            client = boto3.client(
                "s3",
                endpoint_url=self.endpoint_url,
                aws_access_key_id=self.access_key_id,
                aws_secret_access_key=self.secret_access_key,
                region_name=self.region or (found[1] if found else "us-east-1"),
                config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
            )
            named = {"Bucket": self.name, "Key": key}
            put, read = (client.generate_presigned_url(call, Params=named, ExpiresIn=KEPT_S) for call in ("put_object", "get_object"))
        except (BotoCoreError, ValueError) as exc:
            raise InvalidRequest(f"the bucket's address or name cannot be used: {type(exc).__name__}") from None
        return UploadTarget(put, read, guarded)


def place_at(url: str) -> UploadTarget:
    """The place that an address stands for; it can be read without what signs it. Raises InvalidRequest."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise InvalidRequest("upload_url must be an http:// or https:// address", "upload_url")
    return UploadTarget(url, urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")), guarded=True)


def upload(body: bytes, place: UploadTarget) -> None:
    """PUT JSON to a place; blocks. Raises DownloadBlocked, UploadFailed."""
    import requests
    from urllib3.exceptions import HTTPError

    guard = import_sdk(GUARD)
    shown = public_url(place.put_url)
    failure = "no address answered"
    for address in _addresses(place, shown):
        try:
            status = _put(requests, guard, body, place.put_url, address)
        except requests.ConnectionError as exc:  # the next address may be reachable
            failure = type(exc).__name__
        except (requests.RequestException, HTTPError, ValueError) as exc:
            raise UploadFailed(f"{shown} did not take the result: {type(exc).__name__}") from None
        else:
            if status not in _TAKEN:
                raise UploadFailed(f"{shown} answered with status {status}; expected 200")
            return
    raise UploadFailed(f"{shown} could not be reached ({failure}); expected an address that takes the result by PUT")


def _addresses(place: UploadTarget, shown: str) -> list[str | None]:
    """Those that a place's host has; None stands for whatever the host's name says."""
    if not place.guarded:
        return [None]
    guard, parts = import_sdk(GUARD), urlsplit(place.put_url)
    try:
        return list(guard.resolve_and_validate(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)))
    except guard.SSRFError as exc:
        error = refusal(str(exc), shown, 0)
        if isinstance(error, DownloadFailed):
            raise UploadFailed(error.message) from None
        raise error from None
    except UnicodeError:
        raise UploadFailed(f"{shown}: its host is not known") from None


def _put(requests: Any, guard: Any, body: bytes, url: str, address: str | None) -> int:
    """The status of the answer; `address` is the one to connect to, whatever the host's name says meanwhile."""
    with requests.Session() as session:
        if address is not None:
            session.trust_env = False  # a proxy would look the name up itself
            for scheme in ("http://", "https://"):
                session.mount(scheme, guard.PinnedIPAdapter(address))
        headers = {"Content-Type": "application/json"}
        with session.put(url, data=body, headers=headers, timeout=(CONNECT_S, SILENCE_S), allow_redirects=False, stream=True) as answer:
            answer.raw.read(MOST_ANSWER)
            return int(answer.status_code)
