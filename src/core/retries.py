"""Retry policies by Cloud Tasks' rules: when the next attempt comes, and when none does."""

import attrs


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how quickly a failed attempt is repeated.

    Defaults are those that Cloud Tasks gives a new queue.

    Attributes:
        max_attempts: attempts in all, the first included; -1 without end.
        max_retry_duration: seconds from the first attempt; 0 without end.
        min_backoff: seconds before the second attempt.
        max_backoff: seconds that no wait exceeds.
        max_doublings: how often the wait doubles before it grows linearly.
    """

    max_attempts: int = 100
    max_retry_duration: float = 0.0
    min_backoff: float = 0.1
    max_backoff: float = 3600.0
    max_doublings: int = 16

    def backoff(self, failures: int) -> float:
        """Seconds to wait after the given number of failed attempts (1 = the first).

        The wait starts at `min_backoff`, doubles `max_doublings` times, then grows by
        `min_backoff * 2**max_doublings` each time, and stays at `max_backoff`.
        """
        doublings = min(failures - 1, self.max_doublings)
        # Beyond 2**64 every wait is the longest one; larger powers only overflow the float.
        step = self.min_backoff * 2.0 ** min(doublings, 64)
        linear = failures - 1 - doublings
        return min(step * (1 + linear), self.max_backoff)

    def exhausted(self, *, attempts: int, since_first: float) -> bool:
        """Whether no further attempt is due.

        Attempts and duration must both be spent where both are limited.

        Args:
            attempts: made so far.
            since_first: seconds since the first attempt.
        """
        spent = self.max_attempts != -1 and attempts >= self.max_attempts
        if self.max_retry_duration:
            over = since_first >= self.max_retry_duration
            return over if self.max_attempts == -1 else spent and over
        return spent
