"""Tasks that use this package's context also run with the backends of Django."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from django.tasks import TaskResultStatus, task_backends
from django.test import override_settings

MODULE = "tests.portable_tasks"


@pytest.fixture(params=["immediate.ImmediateBackend", "dummy.DummyBackend"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    entry = {"BACKEND": f"django.tasks.backends.{request.param}"}
    with override_settings(TASKS={"default": entry}):
        sys.modules.pop(MODULE, None)
        yield task_backends["default"]
        sys.modules.pop(MODULE, None)


@pytest.mark.parametrize("name", ["looks", "looks_async"])
def test_a_task_is_declared_and_runs_under_another_backend(backend: Any, name: str) -> None:
    result = getattr(import_module(MODULE), name).enqueue(3)
    if type(backend).__name__ == "DummyBackend":
        assert [kept.id for kept in backend.results] == [result.id]
    else:
        assert result.status is TaskResultStatus.SUCCESSFUL, result.errors[0].traceback
        assert result.return_value == [False, 1, 5, "default", 3]
