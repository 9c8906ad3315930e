"""The queues of the site: their wanted settings, and the administration that changes them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import attrs

from ...core.cloud_queues import (
    Change,
    CreateQueue,
    DeleteQueue,
    QueueSettings,
    UpdateQueue,
    changes,
    combined,
    wanted_queues,
)
from ...core.errors import ConfigurationError
from ...core.names import QueueName
from ...core.options import BackendOptions
from ..registry import SiteBackend
from ..runtime import get_runtime

if TYPE_CHECKING:
    from ...core.administration import QueueAdmin


@attrs.frozen
class QueueLocation:
    """The queues of the site in one location.

    Attributes:
        project, location: the ids of the project and of the location.
        admin: the administration of the queues.
        wanted: the settings that the queues should have, by id.
    """

    project: str
    location: str
    admin: QueueAdmin
    wanted: dict[str, QueueSettings]

    def changes(self, *, delete: bool) -> list[Change]:
        """Return the changes after which the queues have the wanted settings.

        Args:
            delete: whether to delete the queues that no backend sends tasks to.

        Raises:
            AdministrationError: Cloud Tasks refused a call or did not answer.
        """
        existing = self.admin.queues(self.project, self.location)
        return changes(
            self.wanted, existing, project=self.project, location=self.location, delete=delete
        )

    def apply(self, change: Change) -> None:
        """Make one change.

        Raises:
            AdministrationError: Cloud Tasks refused the call or did not answer.
        """
        match change:
            case CreateQueue(queue, settings):
                self.admin.create(queue, settings)
            case UpdateQueue(queue, settings, _):
                self.admin.update(queue, settings)
            case DeleteQueue(queue):
                self.admin.delete(queue)

    def queue(self, name: str) -> QueueName:
        """Return the full name of a queue of this location.

        Raises:
            InvalidNameError: the id contains other characters, or is too long.
        """
        return QueueName(self.project, self.location, name)


def wanted_of(backend: SiteBackend, options: BackendOptions) -> dict[str, QueueSettings]:
    """Return the settings that the queues of a backend should have, by id."""
    return wanted_queues(
        options.cloud_queues, queue_names=sorted(backend.queues), thresholds=options.priority_queues
    )


def queue_locations(chosen: Collection[SiteBackend]) -> list[QueueLocation]:
    """Return the locations of the queues of these backends.

    Raises:
        ConfigurationError: a setting is missing, or two backends contradict each other.
    """
    wanted: dict[tuple[str, str, str | None], dict[str, dict[str, QueueSettings]]] = {}
    for backend in chosen:
        configuration = backend.configuration
        where = (*configuration.location, configuration.emulator_host)
        wanted.setdefault(where, {})[backend.alias] = wanted_of(backend, configuration.options)
    found = []
    for (project, location, emulator_host), by_alias in wanted.items():
        total, contradictions = combined(by_alias)
        if contradictions:
            raise ConfigurationError(" ".join(contradictions))
        admin = get_runtime().make_queue_admin(emulator_host)
        found.append(QueueLocation(project, location, admin, total))
    return found
