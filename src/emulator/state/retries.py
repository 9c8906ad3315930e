"""The retry policy of Cloud Tasks: the wait before the next attempt, and the last attempt."""

import attrs


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and how soon a failed task is retried.

    The defaults are those of a new queue in Cloud Tasks.

    Attributes:
        max_attempts: the number of attempts, including the first; -1 for no limit.
        max_retry_duration: seconds from the first attempt; 0 for no limit.
        min_backoff: seconds before the second attempt.
        max_backoff: the longest wait, in seconds.
        max_doublings: how many times the wait doubles before it grows linearly.
    """

    max_attempts: int = 100
    max_retry_duration: float = 0.0
    min_backoff: float = 0.1
    max_backoff: float = 3600.0
    max_doublings: int = 16

    def backoff(self, failures: int) -> float:
        """Return the seconds to wait after the given number of failed attempts (1 = the first).

        The wait starts at `min_backoff` and doubles `max_doublings` times. Then it grows by
        `min_backoff * 2**max_doublings` each time. It never exceeds `max_backoff`.
        """
        doublings = min(failures - 1, self.max_doublings)
        # From 2**64 on, every wait is `max_backoff`. Larger powers would overflow the float.
        step = self.min_backoff * 2.0 ** min(doublings, 64)
        linear = failures - 1 - doublings
        return min(step * (1 + linear), self.max_backoff)

    def exhausted(self, *, attempts: int, since_first: float) -> bool:
        """Return whether no further attempt is made.

        If attempts and duration are both limited, both limits must be reached.

        Args:
            attempts: the number of attempts so far.
            since_first: seconds since the first attempt.
        """
        spent = self.max_attempts != -1 and attempts >= self.max_attempts
        if self.max_retry_duration:
            over = since_first >= self.max_retry_duration
            return over if self.max_attempts == -1 else spent and over
        return spent
