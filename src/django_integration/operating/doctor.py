"""Examines the site and its way through Cloud Tasks, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import datetime

import attrs
from django.core.checks import ERROR, WARNING, CheckMessage
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from ...core.administration import QueueAdmin
from ...core.detection import Found, Missing
from ...core.doctor import (
    Finding,
    Level,
    ProbeTaskStatus,
    arrived,
    diagnose,
    examine_queue,
    missing,
    ok,
    unknown,
)
from ...core.errors import AdministrationError, CloudTasksError, ConfigurationError
from ...core.names import QueueName
from ...core.options import Authentication
from ...core.payload import PROBE_TASK_PATH, TaskPayload
from ...core.requests import build_task_request
from ...core.retry_policy import TaskPolicy
from ..checks import check_backend
from ..configuration import Configuration
from ..exceptions import message_of
from ..models import StoredTask
from ..registry import SiteBackend
from ..runtime import get_runtime
from ..signing import sign
from .cloud_queues import wanted_of

_PAUSE = 0.25  # seconds between two looks at the probe


@attrs.frozen(kw_only=True)
class Examination:
    """The examination of one backend.

    Attributes:
        backend: the backend.
        deployment: the messages of the checks of `check --deploy`, for all backends.
        timeout: the seconds to wait for the probe; 0 for no probe.
        tell: called with the seconds that the probe has been waited for.
    """

    backend: SiteBackend
    deployment: Collection[CheckMessage]
    timeout: float
    tell: Callable[[float], None]

    def findings(self) -> Iterator[Finding]:
        """Examine the backend, and return the findings in the order of the steps.

        A step that needs the result of a failed one is left out.
        """
        configuration = self.backend.configuration
        found = list(_settings(configuration))
        yield from found
        yield from _checks(self.backend, self.deployment)
        if any(one.level is Level.ERROR for one in found):
            return
        yield from _database(configuration)
        wanted = list(wanted_of(self.backend, configuration.options))
        try:
            admin = get_runtime().make_queue_admin(configuration.emulator_host)
            queues = {queue.id: queue for queue in admin.queues(*configuration.location)}
        except AdministrationError as error:
            level = Level.WARNING if error.forbidden else Level.ERROR
            yield Finding("queues", level, str(error))
            if error.forbidden and self.timeout and wanted:
                yield self._probe(configuration, admin, wanted[0])
            return
        yield ok("queues", "The queues can be read.")
        defaults, usable = configuration.options.policy, ""
        policies = [p.over(defaults) for p in (TaskPolicy(), *self.backend.declared_policies)]
        for name in wanted:
            examined = examine_queue(
                name, queues.get(name), policies, sends_retry=configuration.sends_retry_config
            )
            if examined.level is not Level.ERROR:
                usable = usable or name
            yield examined
        if self.timeout and usable:
            yield self._probe(configuration, admin, usable)

    def _probe(self, configuration: Configuration, admin: QueueAdmin, queue: str) -> Finding:
        """Create the probe, and wait until it has arrived or failed."""
        runtime = get_runtime()
        now: datetime = runtime.clock()
        payload = TaskPayload(
            task_id=runtime.new_id(),
            task_path=PROBE_TASK_PATH,
            args=[],
            kwargs={},
            queue_name=queue,
            backend=self.backend.alias,
            enqueued_at=now,
        )
        body = payload.encode()
        try:
            route, policy = configuration.route, configuration.policy
            request = build_task_request(
                payload,
                body=body,
                signature=sign(body),
                route=attrs.evolve(route, thresholds={}, name_tasks=True),
                policy=TaskPolicy(),
                run_after=None,
                now=now,
            )
            configuration.queue.create(request, timeout=configuration.options.enqueue_timeout)
        except CloudTasksError as error:
            return Finding("probe", Level.ERROR, str(error))
        began, status = time.monotonic(), ProbeTaskStatus()
        account = route.oidc.service_account_email if route.oidc else None
        try:
            while (waited := time.monotonic() - began) < self.timeout:
                try:
                    seen = admin.status(request.queue, payload.task_id)
                except AdministrationError as error:
                    return unknown(str(error))
                if seen is None:
                    return arrived(time.monotonic() - began)
                status = seen
                if found := diagnose(status, url=route.url, mode=policy.mode, account=account):
                    return found
                self.tell(waited)
                time.sleep(_PAUSE)
            return missing(status, url=route.url, timeout=self.timeout)
        finally:
            _delete(configuration, request.queue, payload.task_id)


def _settings(configuration: Configuration) -> Iterator[Finding]:
    """Return the values that tasks need, with their sources."""
    try:
        detections = configuration.detections()
    except ConfigurationError as error:
        yield Finding("settings", Level.ERROR, str(error))
        return
    for option, detected in detections.items():
        match detected:
            case Found(value, source, caution):
                level = Level.WARNING if caution else Level.OK
                what = f" This is a guess: {caution}." if caution else ""
                remedy = f"Set {option} in OPTIONS." if caution else ""
                yield Finding("settings", level, f"{option} is {value} ({source}).{what}", remedy)
            case Missing() if option == "OIDC_SERVICE_ACCOUNT_EMAIL" and (
                configuration.options.authentication is Authentication.AUTO
            ):
                yield ok("settings", "No service account is known, so tasks are signed.")
            case Missing():
                emulated = configuration.emulator_host is not None
                yield Finding("settings", Level.ERROR, str(detected.error(emulated=emulated)))


def _checks(backend: SiteBackend, deployment: Collection[CheckMessage]) -> Iterator[Finding]:
    """Return the findings of the system checks of the backend."""
    messages = check_backend(backend)
    messages += [message for message in deployment if f"TASKS[{backend.alias!r}]" in message.msg]
    yield from map(_finding, messages)
    if not messages:
        yield ok("checks", "The system checks have found nothing.")


def _finding(message: CheckMessage) -> Finding:
    level = Level.OK
    if message.level >= WARNING:
        level = Level.ERROR if message.level >= ERROR else Level.WARNING
    number = str(message.id).rpartition(".")[2]
    return Finding("checks", level, f"{message.msg} ({number})", message.hint or "")


def _database(configuration: Configuration) -> Iterator[Finding]:
    """Return the findings about the tables that RESULTS needs."""
    if configuration.options.results is None:
        return
    alias, app = configuration.options.results_database, StoredTask._meta.app_label
    try:
        executor = MigrationExecutor(connections[alias])
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes(app))
    except DatabaseError as error:
        yield Finding(
            "database", Level.ERROR, f"The database {alias!r} failed: {message_of(error)}"
        )
        return
    if plan:
        names = ", ".join(migration.name for migration, _ in plan)
        yield Finding(
            "database",
            Level.ERROR,
            f"The database {alias!r} lacks these migrations of {app}: {names}.",
            f"Run: python manage.py migrate --database {alias}",
        )
    else:
        yield ok("database", f"The tables in the database {alias!r} are up to date.")


def _delete(configuration: Configuration, queue: QueueName, task_id: str) -> None:
    """Delete the probe, so that Cloud Tasks does not repeat it."""
    timeout = configuration.options.enqueue_timeout
    with suppress(CloudTasksError):
        configuration.queue.delete(queue, task_id, timeout=timeout)
