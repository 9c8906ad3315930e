"""The rate limit of a queue: a token bucket without a clock of its own."""

import attrs

SECOND = 1_000_000_000
"""One second in nanoseconds. All times of the emulator are integer nanoseconds since the epoch."""

_LONGEST_WAIT = 31 * 24 * 3600  # seconds; no task is kept longer


def burst_for(rate: float) -> int:
    """Return the burst size that the service chooses for a rate, in dispatches per second.

    The rule is not published. In production, a queue with the default rate of 500 per second has a
    burst size of 100, and slow queues have 10. A fifth of the rate, but at least 10, matches both.
    """
    return max(10, int(rate / 5))


@attrs.define
class TokenBucket:
    """A bucket that gains `rate` tokens per second, up to `burst`. A dispatch takes one token.

    Attributes:
        tokens: the tokens in the bucket at `filled_at`.
        filled_at: the time of the last update, in nanoseconds since the epoch.
    """

    rate: float
    burst: float
    tokens: float
    filled_at: int

    @classmethod
    def full(cls, rate: float, burst: float, now: int) -> "TokenBucket":
        """Create a full bucket. `now` is in nanoseconds since the epoch."""
        return cls(rate, burst, burst, now)

    def take(self, now: int) -> bool:
        """Take a token if there is one, and return whether there was one."""
        self._refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def give_back(self) -> None:
        """Put one token back, because the dispatch did not happen."""
        self.tokens += 1

    def next_token(self, now: int) -> int:
        """Return the time at which `take` succeeds; `now` if it succeeds now."""
        self._refill(now)
        if self.tokens >= 1:
            return now
        # Round up, because one nanosecond too early there is no token yet.
        return now + int(min((1 - self.tokens) / self.rate, _LONGEST_WAIT) * SECOND) + 1

    def _refill(self, now: int) -> None:
        if now > self.filled_at:
            gained = (now - self.filled_at) / SECOND * self.rate
            self.tokens = min(self.burst, self.tokens + gained)
            self.filled_at = now
