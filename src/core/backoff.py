"""How long this package waits before it does something again.

Not Cloud Tasks' retry policy, which a queue has.
"""

import attrs

_HIGHEST_POWER = 64  # beyond it every wait is the longest one; larger powers overflow a float


@attrs.frozen
class Backoff:
    """Waits that double from one failure to the next.

    Attributes:
        first: seconds after the first failure.
        longest: seconds that no wait exceeds.
    """

    first: float
    longest: float

    def seconds(self, failures: int) -> float:
        """The wait after that many failures in a row, 1 or more."""
        return min(self.first * 2.0 ** min(failures - 1, _HIGHEST_POWER), self.longest)
