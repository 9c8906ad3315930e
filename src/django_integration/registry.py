"""The Cloud Tasks backends of the site."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

from django.tasks import task_backends
from django.tasks.backends.base import BaseTaskBackend

from ..core.retry_policy import TaskPolicy
from .configuration import Configuration, configuration_for

# Django creates a backend for each thread, so the policies are shared here. The key is the alias.
_DECLARED: dict[str, set[TaskPolicy]] = {}


class SiteBackend(BaseTaskBackend):
    """One entry of `TASKS` with its configuration. The base class of `CloudTasksBackend`."""

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._beside = frozenset(params) - {"BACKEND", "QUEUES", "OPTIONS"}

    @property
    def declared_policies(self) -> Collection[TaskPolicy]:
        """The distinct policies of the tasks that are declared for this entry."""
        return _DECLARED.get(self.alias, set())

    def note_policy(self, policy: TaskPolicy) -> None:
        """Remember the policy of a task that is declared for this entry."""
        _DECLARED.setdefault(self.alias, set()).add(policy)

    @cached_property
    def configuration(self) -> Configuration:
        """The configuration of this entry."""
        return configuration_for(self.alias, self.options, self._beside)


def backends() -> list[SiteBackend]:
    """Return the Cloud Tasks backends of the site."""
    return [backend for backend in task_backends.all() if isinstance(backend, SiteBackend)]


def recording_backends() -> dict[str, Configuration]:
    """Return the configurations of the backends that keep results, by alias."""
    return {b.alias: b.configuration for b in backends() if b.configuration.results}


def results_database() -> str:
    """Return the alias of the database in which the backends record tasks.

    A check reports an error if the backends use different databases.
    """
    recording = recording_backends().values()
    return next((c.options.results_database for c in recording), "default")
