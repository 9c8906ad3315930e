"""Chaos: faults injected into attempts, to test that an app tolerates at-least-once delivery.

The fault of an attempt is drawn from the seed, the task's name and the attempt's number only. It
does not depend on other tasks or on time, so the same seed gives the same faults.
"""

import random
from typing import Self

import attrs

from ...core.errors import ConfigurationError

_LONGEST_DELAY = 3600.0  # seconds


@attrs.frozen
class Fault:
    """What goes wrong with one attempt."""

    duplicate: bool = False
    drop: bool = False
    refuse: bool = False
    delay: float = 0.0


@attrs.frozen(kw_only=True)
class Chaos:
    """How often each fault occurs, as rates from 0 to 1.

    Attributes:
        seed: the same seed gives the same faults.
        duplicate: rate of attempts that are delivered twice.
        drop: rate of attempts whose response is dropped after the handler ran.
        refuse: rate of attempts that do not reach the handler.
        delay: rate of attempts that are delayed, by up to `longest_delay` seconds.
    """

    seed: int = 0
    duplicate: float = 0.05
    drop: float = 0.05
    refuse: float = 0.05
    delay: float = 0.1
    longest_delay: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `seed=7,duplicate=0.1,...`. Names that are missing have their defaults.

        Raises:
            ConfigurationError: a name is unknown, or a value is not a number in its range.
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
                    f"{part!r} is not a fault: write NAME=NUMBER, where NAME is one of {names}."
                ) from None
            highest = _LONGEST_DELAY if name == "longest_delay" else 1.0
            if name != "seed" and not 0 <= values[name] <= highest:
                raise ConfigurationError(f"{part!r} must be from 0 to {highest:g}.")
        return attrs.evolve(cls(), **values)  # type: ignore[arg-type]  # each read as its type

    def fault_for(self, task: str, attempt: int) -> Fault:
        """The fault of that attempt."""
        draw = random.Random(f"{self.seed}/{task}/{attempt}").random  # noqa: S311 - faults, no secrets
        return Fault(
            duplicate=draw() < self.duplicate,
            drop=draw() < self.drop,
            refuse=draw() < self.refuse,
            delay=draw() * self.longest_delay if draw() < self.delay else 0.0,
        )

    def __str__(self) -> str:
        return ",".join(f"{name}={value:g}" for name, value in attrs.asdict(self).items())
