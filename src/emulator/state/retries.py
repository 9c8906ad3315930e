"""The retry policy of Cloud Tasks: when the next attempt is made, and when the last one was."""

import attrs


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how soon a failed attempt is repeated.

    The defaults are those of a new queue in Cloud Tasks.

    Attributes:
        max_attempts: number of attempts, the first included; -1 for no limit.
        max_retry_duration: seconds from the first attempt; 0 for no limit.
        min_backoff: seconds before the second attempt.
        max_backoff: longest wait, in seconds.
        max_doublings: how often the wait doubles before it grows linearly.
    """

    max_attempts: int = 100
    max_retry_duration: float = 0.0
    min_backoff: float = 0.1
    max_backoff: float = 3600.0
    max_doublings: int = 16

    def backoff(self, failures: int) -> float:
        """Seconds to wait after the given number of failed attempts (1 = the first).

        The wait starts at `min_backoff` and doubles `max_doublings` times. Then it grows by
        `min_backoff * 2**max_doublings` each time. It never exceeds `max_backoff`.
        """
        doublings = min(failures - 1, self.max_doublings)
        # Above 2**64 every wait is the longest one, and larger powers would overflow the float.
        step = self.min_backoff * 2.0 ** min(doublings, 64)
        linear = failures - 1 - doublings
        return min(step * (1 + linear), self.max_backoff)

    def exhausted(self, *, attempts: int, since_first: float) -> bool:
        """Whether no further attempt is made.

        When attempts and duration are both limited, both limits must be reached.

        Args:
            attempts: number of attempts so far.
            since_first: seconds since the first attempt.
        """
        spent = self.max_attempts != -1 and attempts >= self.max_attempts
        if self.max_retry_duration:
            over = since_first >= self.max_retry_duration
            return over if self.max_attempts == -1 else spent and over
        return spent
