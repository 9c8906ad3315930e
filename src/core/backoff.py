"""Waits that grow from one failure to the next.

They are used between the attempts of a task, and before this package repeats a call. The emulator
does not use them: `emulator.state.retries` implements the retry policy of Cloud Tasks.
"""

from datetime import timedelta

import attrs

_MOST_DOUBLINGS = 64  # a much larger power of two overflows a float
_HIGHEST_DOUBLINGS = 1_000  # Cloud Tasks accepts more, but no wait doubles so many times


def seconds_of(value: object) -> float:
    """Return a duration in seconds.

    Args:
        value: a number of seconds, or a timedelta.

    Raises:
        ValueError: the value is neither, or it is not between 0 and 3650 days.
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
    """The waits between attempts. They double at first and then grow linearly.

    A Cloud Tasks queue computes its waits in the same way. Example: `Backoff(10, 300, 3)` waits
    10, 20, 40, 80, 160, 240, 300, 300 ... seconds.

    Attributes:
        first: the wait after the first failure, in seconds or as a timedelta.
        longest: the maximum wait, in seconds or as a timedelta.
        doublings: how many times the wait doubles. After that, each wait is longer than the
            previous one by the last doubled wait.

    Raises:
        ValueError: a value is not a duration or not a count, or `longest` is shorter than `first`.
    """

    first: float = attrs.field(converter=seconds_of)
    longest: float = attrs.field(default=3600.0, converter=seconds_of)
    doublings: int = attrs.field(default=16)

    def __attrs_post_init__(self) -> None:
        if type(self.doublings) is not int or not 0 <= self.doublings <= _HIGHEST_DOUBLINGS:
            raise ValueError(
                f"doublings is {self.doublings!r}, but it must be a whole number from 0 to "
                f"{_HIGHEST_DOUBLINGS:,}."
            )
        if self.longest < self.first:
            raise ValueError(
                f"longest is {self.longest:g} s, shorter than first ({self.first:g} s)."
            )

    def seconds(self, failures: int) -> float:
        """Return the wait in seconds after this number of consecutive failures, 1 or more."""
        doubled = min(failures - 1, self.doublings, _MOST_DOUBLINGS)
        steps = max(1, failures - self.doublings)
        return min(self.first * 2.0**doubled * steps, self.longest)
