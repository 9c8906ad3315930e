"""Alternating measurement: the things compared take turns, so that noise hits all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import attrs


@attrs.frozen
class Row:
    """A line of the table: what was measured, in microseconds, against what, and the aim."""

    what: str
    microseconds: float
    against: str
    ratio: float
    aim: float | None

    def __str__(self) -> str:
        aim = (
            ""
            if self.aim is None
            else f"  aim {self.aim:.2f}  {'reached' if self.ratio <= self.aim else 'MISSED'}"
        )
        compared = f"{self.ratio:5.2f}x {self.against}{aim}"
        return f"  {self.what:<46} {self.microseconds:9.1f} us  {compared}"


def alternate(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int
) -> dict[str, float]:
    """Median over the rounds of the seconds that a call takes, for each contestant.

    In every round each contestant makes `calls` calls in a row; rounds begin with another one
    each time.
    """
    names = list(contestants)
    for call in contestants.values():
        for _ in range(max(10, calls // 5)):
            call()
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                call = contestants[name]
                began = time.perf_counter()
                for _ in range(calls):
                    call()
                times[name].append((time.perf_counter() - began) / calls)
            gc.collect()
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}
