"""Delay the answers to refused keys, and decide which of them are logged. Knows no HTTP.

A valid key is never delayed, because other clients may share the address of a proxy. So the delay only slows down a
client that waits for its answers; keys have to be long enough not to be guessed.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

FREE_FAILURES = 10  # answers of an address that are not delayed
FIRST_DELAY_S, MAX_DELAY_S = 0.05, 0.5  # the delay doubles with each further failure
FORGET_S = 60.0  # seconds without a failure after which an address starts anew
MAX_ADDRESSES = 1024  # addresses that are remembered; the one that failed longest ago is forgotten first
MAX_DELAYED = 64  # answers that wait at a time; more are sent at once
LOG_INTERVAL_S = 10.0
MAX_LOG_LINES = 10  # in each interval; each address gets one at most


class KeyFailures:
    """Counts refused keys by the address of the client."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count and time of the last, by network
        self._delayed = 0  # answers that wait
        self._interval_start = -LOG_INTERVAL_S
        self._logged: set[str] = set()  # networks with a line in the current interval
        self._unlogged = 0

    async def delay(self, address: str) -> None:
        """Count a failure of an address, and wait for as long as its answer is to be delayed."""
        seconds = self._count(_network(address))
        if not seconds or self._delayed >= MAX_DELAYED:
            return
        self._delayed += 1
        try:
            await self._sleep(seconds)
        finally:
            self._delayed -= 1

    def _count(self, network: str) -> float:
        now = self._clock()
        count, last = self._failures.pop(network, (0, now))
        count = 1 if now - last > FORGET_S else count + 1
        self._failures[network] = (count, now)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        doublings = min(count - FREE_FAILURES - 1, 10)
        return 0.0 if doublings < 0 else min(MAX_DELAY_S, FIRST_DELAY_S * float(2**doublings))

    def unlogged_if_due(self, address: str) -> int | None:
        """Return how many failures had no log line since the last line, or None if this failure gets none either.

        A flood of failures gets at most MAX_LOG_LINES in LOG_INTERVAL_S.
        """
        now, network = self._clock(), _network(address)
        if now - self._interval_start >= LOG_INTERVAL_S:
            self._interval_start = now
            self._logged.clear()
        if network in self._logged or len(self._logged) >= MAX_LOG_LINES:
            self._unlogged += 1
            return None
        self._logged.add(network)
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged


def _network(address: str) -> str:
    """Return the /64 network of an IPv6 address, all of which one client may have. Return other addresses unchanged."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
