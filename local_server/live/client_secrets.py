"""Give short-lived keys to pages, so that the server's own key need not be in them. Knows no route.

Source: platform.openai.com/docs/api-reference/realtime-sessions/create-realtime-client-secret.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from local_server.live.realtime_config import RealtimeConfig

PREFIX = "ek_"
MIN_LIFE_S, MAX_LIFE_S, DEFAULT_LIFE_S = 10, 7200, 600
MAX_SECRETS = 10_000  # that are known at a time; the one that was made first is forgotten first


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A key for live sessions, the configuration that they begin with, and the Unix time at which it expires."""

    value: str
    expires_at: float
    config: RealtimeConfig


class ClientSecrets:
    """The keys of one process that have not expired."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._secrets: OrderedDict[str, ClientSecret] = OrderedDict()

    def create(self, config: RealtimeConfig, life_s: float) -> ClientSecret:
        """Return a new key."""
        for value in [value for value, secret in self._secrets.items() if secret.expires_at <= self._clock()]:
            del self._secrets[value]
        secret = ClientSecret(f"{PREFIX}{secrets.token_hex(24)}", self._clock() + life_s, config)
        self._secrets[secret.value] = secret
        if len(self._secrets) > MAX_SECRETS:
            self._secrets.popitem(last=False)
        return secret

    def find(self, value: str) -> ClientSecret | None:
        """Return the key with a value if it has not expired."""
        secret = self._secrets.get(value)
        if secret is not None and secret.expires_at <= self._clock():
            del self._secrets[value]
            return None
        return secret
