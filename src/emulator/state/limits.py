"""The rate limit of a queue: a token bucket that is given the time in nanoseconds."""

import attrs

SECOND = 1_000_000_000
"""Nanoseconds. All times of the emulator are whole nanoseconds since the epoch."""

_LONGEST_WAIT = 31 * 24 * 3600  # seconds; no task is kept longer


def burst_for(rate: float) -> int:
    """The burst that the service chooses for a rate.

    The rule is not published. The default queue (500 a second) has 100, and slow queues were seen
    with 10. A fifth of the rate, but at least 10, fits both.
    """
    return max(10, int(rate / 5))


@attrs.define
class TokenBucket:
    """A bucket that gains `rate` tokens a second, up to `burst`. Every dispatch takes one token."""

    rate: float
    burst: float
    tokens: float
    filled_at: int

    @classmethod
    def full(cls, rate: float, burst: float, now: int) -> "TokenBucket":
        """A full bucket."""
        return cls(rate, burst, burst, now)

    def take(self, now: int) -> bool:
        """Take a token, and return whether there was one."""
        self._refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def give_back(self) -> None:
        """Return the token that was taken last, because nothing was dispatched."""
        self.tokens += 1

    def next_token(self, now: int) -> int:
        """The time when `take` will succeed; `now` if it would succeed now."""
        self._refill(now)
        if self.tokens >= 1:
            return now
        # Rounded up, because a nanosecond too early the token would not be there yet.
        return now + int(min((1 - self.tokens) / self.rate, _LONGEST_WAIT) * SECOND) + 1

    def _refill(self, now: int) -> None:
        if now > self.filled_at:
            gained = (now - self.filled_at) / SECOND * self.rate
            self.tokens = min(self.burst, self.tokens + gained)
            self.filled_at = now
