"""A circuit breaker for calls to Cloud Tasks.

After a call without an answer, further calls are refused for some seconds. Otherwise each of a
thousand calls in one request would wait for its own timeout.
"""

from datetime import datetime, timedelta

import attrs

from .errors import CloudTasksError

BREAKER_COOLDOWN = timedelta(seconds=5)
"""How long the breaker stays open after a call without an answer."""


@attrs.frozen
class Breaker:
    """The state of a circuit breaker. It is open for a while after a call without an answer.

    Attributes:
        open_until: when the breaker closes; None if the latest call was answered.
    """

    open_until: datetime | None = None

    def is_open(self, now: datetime) -> bool:
        """Return whether the breaker is open, so that a call would probably get no answer."""
        return self.open_until is not None and now < self.open_until

    def after(self, error: CloudTasksError, *, now: datetime) -> "Breaker":
        """Return the breaker after a call that failed with this error.

        It opens if Cloud Tasks did not answer. Otherwise it does not change.
        """
        return Breaker(now + BREAKER_COOLDOWN) if error.unanswered else self
