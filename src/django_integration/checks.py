"""System checks: what `manage.py check` finds wrong with an entry of `TASKS` before it matters.

They look at settings and environment only; nothing is asked over the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's name
from django.core.exceptions import ImproperlyConfigured
from django.urls import Resolver404
from django.urls import resolve as resolve_url

from ..adapters.metadata import NoMetadataServer
from ..core.detection import Found, Platform, find_handler_host, is_app_engine, is_cloud_run
from ..core.errors import ConfigurationError, OptionsError
from ..core.names import is_queue_id
from ..core.options import Authentication, BackendOptions
from .apps import APP
from .surroundings import current

if TYPE_CHECKING:
    from .backend import CloudTasksBackend

_SQLITE_TIMEOUT = 5.0  # seconds, unless its OPTIONS say otherwise
_LEASE_TO_TIMEOUT = 1.5  # a renewal begins at a third of the lease, and may wait for the rest
_READ_COMMITTED = 2  # as psycopg numbers the levels
_PRIORITY_QUEUES = "PRIORITY_QUEUES"


def check_backend(backend: CloudTasksBackend) -> list[CheckMessage]:
    """What is wrong with a backend anywhere."""
    where = f"TASKS[{backend.alias!r}]"
    try:
        options = backend.configuration.options
    except OptionsError as error:
        return [
            Error(
                f"{where}: {fault.message}.",
                hint=(
                    "Map thresholds from -100 to 100 to queue ids, for example "
                    '{50: "{queue}-urgent", -50: "{queue}-bulk"}.'
                    if fault.option == _PRIORITY_QUEUES
                    else "Correct OPTIONS; the README has the table of options."
                ),
                id=f"django_tasks_cloud_tasks.{
                    'E002' if fault.option == _PRIORITY_QUEUES else 'E001'
                }",
            )
            for fault in error.faults
        ]
    try:
        # What the environment says for the two that it may say wrongly.
        _ = backend.configuration.emulator_host
        find_handler_host(options.handler_host, _settings_only(backend))
    except ConfigurationError as error:
        return [
            Error(
                f"{where}: {error}",
                hint="Correct the variable, or remove it.",
                id="django_tasks_cloud_tasks.E005",
            )
        ]
    return [
        *_check_queue_names(backend, options, where),
        *_check_urls(options, where),
        *_check_audience(backend, options, where),
        *_check_emulator(options, where),
        *_check_results(backend, options, where),
    ]


def check_deployment(**kwargs: Any) -> list[CheckMessage]:  # noqa: ARG001, ANN401 - Django's signature
    """What is wrong with the site's backends in production; for `check --deploy`."""
    from .backend import backends

    found: list[CheckMessage] = []
    for backend in backends():
        try:
            options = backend.configuration.options
            find_handler_host(options.handler_host, _settings_only(backend))
        except ConfigurationError:
            continue  # `check_backend` has told of it.
        where = f"TASKS[{backend.alias!r}]"
        found += [*_check_https(backend, options, where), *_check_open_door(options, where)]
    return found


def _settings_only(backend: CloudTasksBackend) -> Platform:
    """The environment without a metadata server: checks ask nothing over the network."""
    emulated = backend.configuration.emulator_host is not None
    return Platform(environ=current().environ, metadata=NoMetadataServer(), emulated=emulated)


def _check_queue_names(
    backend: CloudTasksBackend, options: BackendOptions, where: str
) -> Iterator[CheckMessage]:
    for queue in sorted(backend.queues):
        names = [
            queue,
            *(template.replace("{queue}", queue) for template in options.priority_queues.values()),
        ]
        for name in names:
            if not is_queue_id(name):
                yield Error(
                    f"{where}: {name!r} cannot be a Cloud Tasks queue.",
                    hint="Use 1 to 100 letters, digits and hyphens in QUEUES and PRIORITY_QUEUES.",
                    id="django_tasks_cloud_tasks.E003",
                )


def _check_urls(options: BackendOptions, where: str) -> Iterator[CheckMessage]:
    from .views import TaskView

    view = _view_at(options.handler_path)
    if not issubclass(getattr(view, "view_class", object), TaskView):
        yield Warning(
            f"{where}: no view executes tasks at {options.handler_path}, where Cloud Tasks will "
            "deliver them.",
            hint=(
                "Add path('cloudtasks/', include('django_tasks_cloud_tasks.urls')) to the root "
                "URLconf, or set TASK_HANDLER_PATH to where it is included. If another service "
                "executes the tasks, silence this check."
            ),
            id="django_tasks_cloud_tasks.W001",
        )


def _check_audience(
    backend: CloudTasksBackend, options: BackendOptions, where: str
) -> Iterator[CheckMessage]:
    environ = current().environ
    demands_token = options.authentication is Authentication.OIDC or (
        options.authentication is Authentication.AUTO and options.service_account
    )
    known = options.audience or isinstance(
        find_handler_host(options.handler_host, _settings_only(backend)), Found
    )
    # On these platforms the handler host is detected when it is needed.
    if demands_token and not (known or is_cloud_run(environ) or is_app_engine(environ)):
        yield Error(
            f"{where}: tokens are demanded, but no audience is known to compare theirs with.",
            hint="Set OIDC_AUDIENCE, or TASK_HANDLER_HOST, which it defaults to.",
            id="django_tasks_cloud_tasks.E004",
        )


def _check_emulator(options: BackendOptions, where: str) -> Iterator[CheckMessage]:
    host = options.emulator_host or current().environ.get("CLOUD_TASKS_EMULATOR_HOST")
    if host and not settings.DEBUG:
        yield Warning(
            f"{where}: tasks go to the emulator at {host}, though DEBUG is off.",
            hint=(
                "In production remove EMULATOR_HOST from OPTIONS and CLOUD_TASKS_EMULATOR_HOST "
                "from the environment: the emulator's tokens are trusted while it is set."
            ),
            id="django_tasks_cloud_tasks.W002",
        )


def _check_results(
    backend: CloudTasksBackend, options: BackendOptions, where: str
) -> Iterator[CheckMessage]:
    from .backend import backends

    if options.results is None:
        return
    if not apps.is_installed(APP):
        yield Error(
            f"{where}: RESULTS is set, and the app that has the table is not installed.",
            hint="Add 'django_tasks_cloud_tasks' to INSTALLED_APPS, and migrate.",
            id="django_tasks_cloud_tasks.E006",
        )
    database = options.results_database
    if database not in settings.DATABASES:
        yield Error(
            f"{where}: RESULTS_DATABASE is {database!r}, which is not in DATABASES.",
            hint="Name an alias of DATABASES.",
            id="django_tasks_cloud_tasks.E007",
        )
    else:
        entry = settings.DATABASES[database]
        yield from _check_transactions(entry, database, where)
        yield from _check_connections(entry, database, options, where)
    for other in backends():
        # Each pair once: the later alias tells.
        if other.alias >= backend.alias:
            continue
        try:
            theirs = other.configuration.options
        except OptionsError:
            continue  # Its own check tells of it.
        if theirs.results and theirs.results_database != database:
            yield Error(
                f"{where}: its results go to {database!r}, and those of {other.alias!r} to "
                f"{theirs.results_database!r}.",
                hint="Use one RESULTS_DATABASE for all: the admin shows one table.",
                id="django_tasks_cloud_tasks.E008",
            )


def _is_shared_file(entry: Mapping[str, Any]) -> bool:
    """Whether the database is one of SQLite's that several processes can use."""
    is_sqlite = "sqlite" in str(entry.get("ENGINE", ""))
    return is_sqlite and "memory" not in str(entry.get("NAME", ""))


def _check_transactions(
    entry: Mapping[str, Any], database: str, where: str
) -> Iterator[CheckMessage]:
    """What keeps records from being committed, or atomic tasks from succeeding."""
    engine, options = str(entry.get("ENGINE", "")), entry.get("OPTIONS", {})
    if entry.get("AUTOCOMMIT", True) is False:
        yield Error(
            f"{where}: DATABASES[{database!r}] has AUTOCOMMIT off: what is recorded about tasks "
            "would be committed with whatever comes next, or never.",
            hint="Remove AUTOCOMMIT, or name another database in RESULTS_DATABASE.",
            id="django_tasks_cloud_tasks.E009",
        )
    mode = str(options.get("transaction_mode", "")).upper()
    if _is_shared_file(entry) and mode not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield Warning(
            f"{where}: in DATABASES[{database!r}] transactions take their lock when they first "
            "write: too late, if somebody else has written since they began.",
            hint="Set 'transaction_mode': 'IMMEDIATE' in its OPTIONS; the README shows how.",
            id="django_tasks_cloud_tasks.W005",
        )
    level = options.get("isolation_level")
    strict = (
        int(level) > _READ_COMMITTED
        if "postgresql" in engine and level is not None
        else "mysql" in engine and str(level).lower() in {"repeatable read", "serializable"}
    )
    if strict:
        yield Warning(
            f"{where}: DATABASES[{database!r}] is stricter than READ COMMITTED: atomic tasks fail "
            "when their lease is renewed while they run.",
            hint="Remove isolation_level from its OPTIONS, or keep atomic tasks short.",
            id="django_tasks_cloud_tasks.W006",
        )


def _check_connections(
    entry: Mapping[str, Any], database: str, options: BackendOptions, where: str
) -> Iterator[CheckMessage]:
    """What keeps leases from being renewed, or connections from being enough."""
    own = entry.get("OPTIONS", {})
    lease, busy = options.lease.total_seconds(), float(own.get("timeout", _SQLITE_TIMEOUT))
    if _is_shared_file(entry) and lease < _LEASE_TO_TIMEOUT * busy:
        yield Warning(
            f"{where}: LEASE is {lease:g} s, and whoever writes to DATABASES[{database!r}] may "
            f"wait {busy:g} s for others: a lease can end while its renewal waits.",
            hint=f"Set LEASE to {_LEASE_TO_TIMEOUT * busy:g} or more, or its timeout to less.",
            id="django_tasks_cloud_tasks.W007",
        )
    if entry.get("CONN_MAX_AGE", 0) != 0 and _is_served_by_the_async_view(options):
        yield Warning(
            f"{where}: DATABASES[{database!r}] keeps connections (CONN_MAX_AGE), and tasks are "
            "executed over ASGI, where each request has a thread of its own: they pile up.",
            hint="Set CONN_MAX_AGE to 0; for PostgreSQL, use the option 'pool' instead.",
            id="django_tasks_cloud_tasks.W008",
        )
    pool = own.get("pool")
    size = pool.get("max_size") or pool.get("min_size", 2) if isinstance(pool, Mapping) else None
    if size == 1:
        yield Warning(
            f"{where}: the pool of DATABASES[{database!r}] has one connection: while an atomic "
            "task holds it, nothing else in its process can reach the database.",
            hint="Set max_size to as many as the process has threads that run tasks.",
            id="django_tasks_cloud_tasks.W009",
        )


def _is_served_by_the_async_view(options: BackendOptions) -> bool:
    from .views import AsyncExecuteTaskView

    view = _view_at(options.handler_path)
    return issubclass(getattr(view, "view_class", object), AsyncExecuteTaskView)


def _view_at(path: str) -> object:
    """The view at that path; None if there is none, or no ROOT_URLCONF at all."""
    try:
        return resolve_url(path).func
    except (Resolver404, ImproperlyConfigured, AttributeError):
        return None


def _check_https(
    backend: CloudTasksBackend, options: BackendOptions, where: str
) -> Iterator[CheckMessage]:
    host = find_handler_host(options.handler_host, _settings_only(backend))
    if isinstance(host, Found) and not host.value.startswith("https://"):
        yield Warning(
            f"{where}: tasks and their proofs travel unencrypted to {host.value} ({host.source}).",
            hint="Use an https:// address.",
            id="django_tasks_cloud_tasks.W003",
        )


def _check_open_door(options: BackendOptions, where: str) -> Iterator[CheckMessage]:
    if options.authentication is Authentication.NONE:
        yield Warning(
            f"{where}: AUTHENTICATION is 'none': whoever reaches the endpoint can run any task "
            "with any arguments.",
            hint="Remove the option; the default needs no further setting.",
            id="django_tasks_cloud_tasks.W004",
        )
