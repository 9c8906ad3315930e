"""Waits that grow from one failure to the next.

A task's own waits between its attempts, and the waits of this package before it repeats a call.
The emulator has a policy of its own, which is Cloud Tasks' (`emulator.state.retries`).
"""

from datetime import timedelta

import attrs

_MOST_DOUBLINGS = 64  # larger powers of two overflow a float sooner or later


def seconds_of(value: object) -> float:
    """A duration in seconds.

    Args:
        value: a number of seconds, or a timedelta.

    Raises:
        ValueError: it is neither, or it is negative or not finite.
    """
    seconds: float | None = None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < _LONGEST.total_seconds() else None
    if seconds is None or not 0 <= seconds <= _LONGEST.total_seconds():
        raise ValueError(
            f"{value!r} is not a duration. Use a number of seconds or a timedelta, 0 or more."
        )
    return seconds


_LONGEST = timedelta(days=3650)


@attrs.frozen
class Backoff:
    """Waits that double, then grow evenly, as those of a Cloud Tasks queue do.

    Example: `Backoff(10, 300, 3)` waits 10, 20, 40, 80, 160, 240, 300, 300 ... seconds.

    Attributes:
        first: the wait after the first failure; seconds, or a timedelta.
        longest: no wait is longer; seconds, or a timedelta.
        doublings: how often the wait doubles. After that it grows each time by the last
            doubled wait.

    Raises:
        ValueError: a value is negative, or `longest` is shorter than `first`.
    """

    first: float = attrs.field(converter=seconds_of)
    longest: float = attrs.field(default=3600.0, converter=seconds_of)
    doublings: int = attrs.field(default=16)

    def __attrs_post_init__(self) -> None:
        if type(self.doublings) is not int or self.doublings < 0:
            raise ValueError(
                f"doublings is {self.doublings!r}, but it must be a whole number, 0 or more."
            )
        if self.longest < self.first:
            raise ValueError(
                f"longest is {self.longest:g} s, shorter than first ({self.first:g} s)."
            )

    def seconds(self, failures: int) -> float:
        """The wait after that many failures in a row, 1 or more."""
        doubled = min(failures - 1, self.doublings, _MOST_DOUBLINGS)
        steps = max(1, failures - self.doublings)
        return min(self.first * 2.0**doubled * steps, self.longest)
