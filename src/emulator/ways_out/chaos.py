"""Chaos: injected faults, to test that an app tolerates at-least-once delivery.

The fault of an attempt depends only on the seed, the name of the task and the number of the
attempt. So a run with the same seed and the same task names has the same faults.
"""

import random
from typing import Self

import attrs

from ...core.errors import ConfigurationError

_LONGEST_DELAY = 3600.0  # seconds


@attrs.frozen
class Fault:
    """The faults of one attempt. See `Chaos`; `delay` is in seconds."""

    duplicate: bool = False
    drop: bool = False
    refuse: bool = False
    delay: float = 0.0


@attrs.frozen(kw_only=True)
class Chaos:
    """How often each fault occurs. Each rate is a share of all attempts, from 0 to 1.

    Attributes:
        seed: the seed of the random numbers.
        duplicate: the rate of attempts that are delivered twice at the same time.
        drop: the rate of attempts whose response is dropped after the handler ran.
        refuse: the rate of attempts that do not reach the handler.
        delay: the rate of attempts that are delayed.
        longest_delay: the maximum delay, in seconds.
    """

    seed: int = 0
    duplicate: float = 0.05
    drop: float = 0.05
    refuse: float = 0.05
    delay: float = 0.1
    longest_delay: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `seed=7,duplicate=0.1,...`. Missing names have their default values.

        Raises:
            ConfigurationError: a name is unknown, a value is not a number, or it is out of range.
        """
        values: dict[str, float] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            try:
                known = next(field for field in attrs.fields(cls) if field.name == name)
                values[name] = int(value) if known.name == "seed" else float(value)
            except (StopIteration, ValueError):
                names = ", ".join(field.name for field in attrs.fields(cls))
                raise ConfigurationError(
                    f"{part!r} is not a fault. Write NAME=NUMBER, where NAME is one of {names}."
                ) from None
            highest = _LONGEST_DELAY if name == "longest_delay" else 1.0
            if name != "seed" and not 0 <= values[name] <= highest:
                raise ConfigurationError(
                    f"{part!r} is out of range. The value must be from 0 to {highest:g}."
                )
        return attrs.evolve(cls(), **values)  # type: ignore[arg-type]  # each value has the type of its field

    def fault_for(self, key: str, attempt: int) -> Fault:
        """Return the faults of an attempt.

        Args:
            key: the full name of the task, or the name and schedule time of an execution of a job.
            attempt: the number of the attempt; 1 for the first.
        """
        draw = random.Random(f"{self.seed}/{key}/{attempt}").random  # noqa: S311 - faults, no secrets
        return Fault(
            duplicate=draw() < self.duplicate,
            drop=draw() < self.drop,
            refuse=draw() < self.refuse,
            delay=draw() * self.longest_delay if draw() < self.delay else 0.0,
        )

    def __str__(self) -> str:
        return ",".join(f"{name}={value:g}" for name, value in attrs.asdict(self).items())
