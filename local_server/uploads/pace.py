"""Decide whether an upload is too slow to be waited for. Knows no clock and no request.

A client that sends a byte a minute would hold a connection and files for as long as a request may last. Live audio must
pass, though: speech codecs need 600 bytes a second, and about 40 while they transmit a pause (3GPP TS 26.093).
"""

import math

from handler.errors import DeadlineExceeded

MAX_CREDIT = 10  # the largest credit, as a multiple of the one that an upload begins with


class UploadPace:
    """The time for which an upload is still waited for: its credit, in seconds.

    Waiting uses the credit up. Each byte adds the time that it takes at the least rate.
    """

    def __init__(self, min_rate: int, credit_s: float) -> None:
        """Begin an upload with a credit of `credit_s`. `min_rate` is in bytes per second, and 0 allows any rate."""
        self._min_rate = min_rate
        self._max_credit_s = MAX_CREDIT * credit_s
        self.credit_s = credit_s if min_rate else math.inf

    def count(self, num_bytes: int, waited_s: float) -> None:
        """Count bytes, for which the server has waited. Raises DeadlineExceeded if the credit is used up."""
        if not self._min_rate:
            return
        self.credit_s = min(self.credit_s - waited_s + num_bytes / self._min_rate, self._max_credit_s)
        if self.credit_s < 0:
            raise self.error()

    def error(self) -> DeadlineExceeded:
        """Return the error for an upload that is too slow."""
        return DeadlineExceeded(f"expected at least {self._min_rate} bytes of the body per second (UPLOAD_MIN_RATE)")
