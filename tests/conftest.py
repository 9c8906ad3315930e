"""Fixtures and settings of all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import tasks

pytest_plugins = ["pytester"]

# A slow machine must not fail a test, and a failure must be reproducible.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def ran() -> Iterator[list[object]]:
    """Return the list of the tasks of `tests.tasks` that this test ran."""
    tasks.ran.clear()
    yield tasks.ran
    tasks.ran.clear()
