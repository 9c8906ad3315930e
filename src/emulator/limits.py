"""The rate of a queue: a token bucket whose time is given, in nanoseconds."""

import attrs

SECOND = 1_000_000_000
"""Nanoseconds: all times of the emulator are whole numbers of them, since the epoch."""


_LONGEST_WAIT = 31 * 24 * 3600  # seconds; no task waits longer, however slow its queue


def burst_for(rate: float) -> int:
    """The burst that the service chooses for a rate.

    The default queue (500 a second) has 100; slow queues were seen with 10. The rule between is
    not published; a fifth of the rate fits both.
    """
    return max(10, int(rate / 5))


@attrs.define
class TokenBucket:
    """Refilled at `rate` tokens a second up to `burst`; every dispatch takes one."""

    rate: float
    burst: float
    tokens: float
    filled_at: int

    @classmethod
    def full(cls, rate: float, burst: float, now: int) -> "TokenBucket":
        """A bucket that nothing was taken from yet."""
        return cls(rate, burst, burst, now)

    def take(self, now: int) -> bool:
        """Take a token, if there is one."""
        self._refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def give_back(self) -> None:
        """Put the token back that was taken last: nothing was dispatched for it."""
        self.tokens += 1

    def next_token(self, now: int) -> int:
        """When `take` will succeed; `now` if it would at once."""
        self._refill(now)
        if self.tokens >= 1:
            return now
        # Rounded up: a wake a nanosecond early would find the bucket short of a token.
        return now + int(min((1 - self.tokens) / self.rate, _LONGEST_WAIT) * SECOND) + 1

    def _refill(self, now: int) -> None:
        if now > self.filled_at:
            gained = (now - self.filled_at) / SECOND * self.rate
            self.tokens = min(self.burst, self.tokens + gained)
            self.filled_at = now
