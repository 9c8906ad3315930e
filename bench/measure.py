"""Alternating measurement: the functions take turns, so that noise affects all of them equally."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import attrs


@attrs.frozen
class Row:
    """A line of the table.

    Attributes:
        what: the name of the measurement.
        microseconds: the median time of a call.
        against: the name of the reference.
        ratio: the time divided by the time of the reference.
        aim: the highest acceptable ratio; None for no aim.
    """

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
    """Return the median time of a call for each contestant, in seconds.

    In every round each contestant makes `calls` calls in a row. Each round starts with another
    contestant.

    Args:
        contestants: the functions to measure, by name.
        rounds: the number of rounds. The median is taken over the rounds.
        calls: the number of calls in a round.
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
