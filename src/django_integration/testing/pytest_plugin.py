"""The pytest plugin. pytest loads it through an entry point, so that the fixtures are available."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ...core.errors import ConfigurationError
from .contexts import CapturedTasks, EmulatorInHand, capturing, emulating

if TYPE_CHECKING:
    from pytest_django.live_server_helper import LiveServer


@pytest.fixture
def cloud_tasks() -> Iterator[CapturedTasks]:
    """Capture the tasks that the test enqueues. `.pending` lists them, `.run_all()` runs them."""
    with capturing() as captured:
        yield captured


@pytest.fixture
def cloud_tasks_emulator(live_server: LiveServer) -> Iterator[EmulatorInHand]:
    """An emulator for the backends in TASKS. It delivers to pytest-django's `live_server`."""
    with ExitStack() as stack:
        try:
            emulator = stack.enter_context(emulating(live_server.url))
        except ConfigurationError as error:
            pytest.fail(str(error))
        yield emulator
