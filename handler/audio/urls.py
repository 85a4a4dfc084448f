"""Take URLs of callers apart and show them without credentials. Knows no network."""

import re
from urllib.parse import urlsplit

MAX_SHOWN_CHARS = 200


def public_url(url: str) -> str:
    """Return a URL without the parts that may hold credentials, cut at 200 characters.

    These parts are the query, the fragment, and everything between :// and the last @.
    """
    scheme, separator, location = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    if not separator:
        return scheme.rpartition("@")[2][:MAX_SHOWN_CHARS]
    return f"{scheme}{separator}{location.rpartition('@')[2]}"[:MAX_SHOWN_CHARS]


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case, or an empty text if it has none or cannot be parsed."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def split_http_url(url: str) -> tuple[str, int] | None:
    """Return the host and the port of an http or https URL, or None if it is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # such as a port that is no number
        return None
    if not host or parts.scheme not in ("http", "https"):
        return None
    return host, port or (443 if parts.scheme == "https" else 80)
