"""Read the bytes of an audio file from a bucket of an S3 service. Knows no format.

boto3 signs the requests and understands the responses, and the requests are sent over the connections of a Transfer, so
that they can be ended at any moment.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

from handler.audio.http_source import check_encoding
from handler.audio.spool import Spool
from handler.audio.transfer import Transfer
from handler.audio.urls import public_url
from handler.errors import AsrError, DownloadBlocked, DownloadFailed, DownloadRefused, InvalidRequest
from handler.settings import Settings
from handler.validators import short_repr

RETRIES = 2
# Codes of S3 that concern this worker's clock, credentials or connection, although their status is in the 400s.
_RETRYABLE_CODES = ("RequestTimeout", "RequestTimeTooSkewed", "ExpiredToken", "TokenRefreshRequired")


class S3Source:
    """Downloads files of the buckets that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Any = None
        self._session_lock = threading.Lock()  # clients must be created one at a time

    def download(
        self, url: str, spool: Spool, transfer: Transfer, chunk_bytes: int, timeout_s: float
    ) -> Iterator[bytes]:
        """Yield the bytes of the file at an s3:// URL as they arrive, and announce their number to the spool.

        `timeout_s` is the longest wait for the next bytes. Raises AsrError.
        """
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        bucket, _, key = url.partition("://")[2].partition("/")
        bucket = bucket.rpartition("@")[2]
        if bucket not in self._settings.s3_buckets:
            raise DownloadBlocked(f"bucket {short_repr(bucket)} is not among those that S3_BUCKETS names")
        safe_url = public_url(url)
        try:
            with ExitStack() as stack:
                client = stack.enter_context(closing(self._new_client()))
                sender = _Sender(stack, transfer, timeout_s, self._session.get_config_variable("ca_bundle"))
                client.meta.events.register("before-send.s3", sender.send)
                response = client.get_object(Bucket=bucket, Key=key)
                body = stack.enter_context(closing(response["Body"]))
                check_encoding(safe_url, response.get("ContentEncoding"))
                if "ContentLength" in response:
                    spool.expect(response["ContentLength"])
                yield from body.iter_chunks(chunk_bytes)
        except ClientError as exc:
            raise _service_error(safe_url, exc) from None
        except (ParamValidationError, UnicodeError):
            raise InvalidRequest(f"{safe_url}: expected s3://, a bucket, / and a key", "url") from None
        except BotoCoreError as exc:
            raise DownloadFailed(f"{safe_url} did not arrive: {type(exc).__name__}") from None

    def _new_client(self) -> Any:
        import botocore.session
        from botocore.config import Config

        with self._session_lock:
            if self._session is None:
                self._session = botocore.session.get_session()
            config = Config(retries={"max_attempts": RETRIES})
            return self._session.create_client("s3", endpoint_url=self._settings.s3_endpoint_url, config=config)


class _Sender:
    """Sends the requests of one S3 client. Their responses are closed at the end of `stack`."""

    def __init__(self, stack: ExitStack, transfer: Transfer, timeout_s: float, ca_bundle: str | None) -> None:
        self._stack = stack
        self._transfer = transfer
        self._timeout_s = timeout_s
        self._ca_bundle = ca_bundle

    def send(self, request: Any, **_: Any) -> Any:
        """Send a request that botocore has signed, and return the response in the form that botocore expects.

        The URL is sent as it was signed. Raises botocore's ConnectionClosedError, after which botocore tries again, and
        the errors of `Transfer.connect`.
        """
        from botocore.awsrequest import AWSResponse
        from botocore.exceptions import ConnectionClosedError
        from requests import PreparedRequest, RequestException
        from urllib3.exceptions import HTTPError

        from handler.audio.http_client import send_prepared

        prepared = PreparedRequest()
        prepared.method, prepared.url, prepared.body = request.method, request.url, request.body
        prepared.headers = request.headers
        response_of = send_prepared(self._transfer, prepared, None, self._timeout_s, self._ca_bundle)
        try:
            response = self._stack.enter_context(response_of)
        except (RequestException, HTTPError) as exc:
            raise ConnectionClosedError(endpoint_url=request.url, error=exc) from None
        return AWSResponse(request.url, response.status_code, response.raw.headers, response.raw)


def _service_error(safe_url: str, exc: Any) -> AsrError:
    """Return the error that replaces botocore's ClientError, which an answer of the service raises."""
    from handler.audio.http_client import is_retryable

    code = exc.response.get("Error", {}).get("Code", "an error")
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    kind = DownloadFailed if is_retryable(status) or code in _RETRYABLE_CODES else DownloadRefused
    return kind(f"{safe_url} was answered with {code}")
