"""Trouble on demand: what "at least once" means, the same for the same seed.

Each attempt's trouble is drawn from the seed, the task's name and the number of the attempt alone,
so that it does not depend on what else happens or when.
"""

import random
from typing import Self

import attrs

from ..core.errors import ConfigurationError

_LONGEST_DELAY = 3600.0  # seconds


@attrs.frozen
class Trouble:
    """What happens to one attempt."""

    duplicate: bool = False
    drop: bool = False
    refuse: bool = False
    delay: float = 0.0


@attrs.frozen(kw_only=True)
class Chaos:
    """How much trouble there is; rates from 0 to 1.

    Attributes:
        seed: the same trouble for the same seed.
        duplicate: attempts that are delivered twice.
        drop: attempts whose answer is dropped after the handler ran.
        refuse: attempts that do not reach the handler.
        delay: attempts that are held back, for up to `longest_delay` seconds.
    """

    seed: int = 0
    duplicate: float = 0.05
    drop: float = 0.05
    refuse: float = 0.05
    delay: float = 0.1
    longest_delay: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `seed=7,duplicate=0.1,...`; what is not named has its default.

        Raises:
            ConfigurationError: another name, or no number.
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
                    f"{part!r} is no trouble: write NAME=NUMBER, with a name of {names}."
                ) from None
            highest = _LONGEST_DELAY if name == "longest_delay" else 1.0
            if name != "seed" and not 0 <= values[name] <= highest:
                raise ConfigurationError(f"{part!r} must be from 0 to {highest:g}.")
        return attrs.evolve(cls(), **values)  # type: ignore[arg-type]  # each read as its type

    def trouble(self, task: str, attempt: int) -> Trouble:
        """What happens to that attempt."""
        draw = random.Random(f"{self.seed}/{task}/{attempt}").random  # noqa: S311 - trouble, no secret
        return Trouble(
            duplicate=draw() < self.duplicate,
            drop=draw() < self.drop,
            refuse=draw() < self.refuse,
            delay=draw() * self.longest_delay if draw() < self.delay else 0.0,
        )

    def __str__(self) -> str:
        return ",".join(f"{name}={value:g}" for name, value in attrs.asdict(self).items())
