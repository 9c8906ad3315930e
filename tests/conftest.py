"""What all tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import tasks

pytest_plugins = ["pytester"]

# Slow machines are no failure, and a failure must come back: nothing depends on the wall clock.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def ran() -> Iterator[list[object]]:
    """What `tests.tasks` ran in this test."""
    tasks.ran.clear()
    yield tasks.ran
    tasks.ran.clear()
