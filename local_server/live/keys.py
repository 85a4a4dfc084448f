"""Find the key in the head of a request for a WebSocket. Knows no key.

A browser can set no header there, so pages offer the key as a subprotocol.
"""

from collections.abc import Mapping, Sequence

# Of OpenAI: `realtime` and this prefix. Of Deepgram: `token` or `bearer`, and the key.
_PREFIX = "openai-insecure-api-key."
_NAMES = ("token", "bearer")


def key_of(headers: Mapping[bytes, bytes], subprotocols: Sequence[str] = ()) -> bytes:
    """Return the key of a request, or b"" if there is none. The names of `headers` are in lower case."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() in (b"bearer", b"token"):
        return token.strip()
    if b"x-api-key" in headers:
        return headers[b"x-api-key"]
    for protocol in subprotocols:
        if protocol.startswith(_PREFIX):
            return protocol.removeprefix(_PREFIX).encode()
    if len(subprotocols) == 2 and subprotocols[0].lower() in _NAMES:
        return subprotocols[1].encode()
    return b""


def accepted_subprotocol(subprotocols: Sequence[str]) -> str | None:
    """Return which of the subprotocols that a client offers is spoken: never one that holds a key."""
    if "realtime" in subprotocols:
        return "realtime"
    return subprotocols[0] if len(subprotocols) == 2 and subprotocols[0].lower() in _NAMES else None
