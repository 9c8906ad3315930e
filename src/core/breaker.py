"""The circuit breaker for a Cloud Tasks that does not answer: who has waited, waits for the others.

Without it each call waits for its own time-out: a thousand of them in one request, for hours.
"""

from datetime import datetime, timedelta

import attrs

from .errors import CloudTasksError

BREAKER_COOLDOWN = timedelta(seconds=5)
"""For how long, after a call that nobody answered, others are not tried."""


@attrs.frozen
class Breaker:
    """Open for a while after a call that was not answered.

    Attributes:
        open_until: when calls are tried again; None if the latest one was answered.
    """

    open_until: datetime | None = None

    def is_open(self, now: datetime) -> bool:
        """Whether a call would only wait for the same silence."""
        return self.open_until is not None and now < self.open_until

    def after(self, error: CloudTasksError, *, now: datetime) -> "Breaker":
        """The breaker after a call that ended with that error."""
        return Breaker(now + BREAKER_COOLDOWN) if error.unanswered else self
