"""System checks of the entries of `TASKS`, for `manage.py check`.

The checks read only the settings and the environment, and use no network. The checks of
`check --deploy` also send a synthetic delivery through the site, inside the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import attrs
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning  # noqa: A004 - Django's name
from django.core.exceptions import ImproperlyConfigured
from django.urls import Resolver404, URLResolver, get_resolver
from django.urls import resolve as resolve_url
from django.utils.translation import get_language, get_language_from_path
from django.utils.translation import override as override_language

from ..adapters.client_version import RETRY_CONFIG_SINCE, client_version, sends_retry_config
from ..adapters.metadata import NoMetadataServer, answer_finding
from ..core.cloud_queues import combined
from ..core.detection import (
    Detected,
    Found,
    Platform,
    find_handler_host,
    is_app_engine,
    is_cloud_run,
)
from ..core.errors import ConfigurationError, OptionFault
from ..core.names import is_queue_id
from ..core.options import Authentication, BackendOptions
from ..core.retry_policy import retry_settings
from ..core.schedules import needs_relay
from .configuration import emulator_host
from .installation import APP
from .operating.cloud_queues import wanted_of
from .operating.delivery_check import Obstacle, Trial, obstacles
from .operating.site_schedules import site_schedules
from .runtime import get_runtime

if TYPE_CHECKING:
    from .registry import SiteBackend

_SQLITE_TIMEOUT = 5.0  # seconds; the default of SQLite's option `timeout`
_LEASE_TO_TIMEOUT = 1.5  # a renewal starts after a third of the lease, and can wait for the rest
_READ_COMMITTED = 2  # psycopg's number of this isolation level
_PRIORITY_QUEUES = "PRIORITY_QUEUES"
_ABOUT_TOKENS = {
    *("AUTHENTICATION", "OIDC_SERVICE_ACCOUNT_EMAIL", "OIDC_AUDIENCE", "TASK_HANDLER_HOST"),
}


@attrs.frozen(kw_only=True)
class _Subject:
    """One entry of `TASKS`, read without raising errors.

    Attributes:
        backend: the backend of the entry.
        options: the options, with the default for each faulty option.
        faults: the faults of the options.
        environment: the faults of the environment variables.
        emulator_host: HOST:PORT of the emulator; None without one, or if the address is not valid.
        handler_host: the handler host; None if the value in the environment is not valid.
    """

    backend: SiteBackend
    options: BackendOptions
    faults: tuple[OptionFault, ...]
    environment: tuple[str, ...]
    emulator_host: str | None
    handler_host: Detected | None

    @property
    def where(self) -> str:
        """The entry, for messages."""
        return f"TASKS[{self.backend.alias!r}]"

    @property
    def faulty(self) -> set[str]:
        """The names of the faulty options."""
        return {fault.option for fault in self.faults}

    @property
    def results_database(self) -> str | None:
        """The alias of the database of its records; None if it keeps no results."""
        return self.options.results_database if self.options.results else None


def _read(backend: SiteBackend) -> _Subject:
    options, faults = backend.configuration.readable_options
    environ, host = get_runtime().environ, options.emulator_host
    handler_host, wrong = None, []
    try:
        host = emulator_host(options, environ)
    except ConfigurationError as error:
        wrong.append(str(error))
    # Checks use no network, so the metadata server is left out.
    platform = Platform(environ=environ, emulated=host is not None)
    try:
        finding = find_handler_host(options.handler_host, platform)
        handler_host = answer_finding(finding, NoMetadataServer())
    except ConfigurationError as error:
        wrong.append(str(error))
    return _Subject(
        backend=backend,
        options=options,
        faults=faults,
        environment=tuple(wrong),
        emulator_host=host,
        handler_host=handler_host,
    )


def _option_fault(fault: OptionFault, where: str) -> CheckMessage:
    if fault.option == _PRIORITY_QUEUES:
        return Error(
            f"{where}: {fault.message}.",
            hint="Map thresholds from -100 to 100 to queue ids, for example "
            '{50: "{queue}-urgent", -50: "{queue}-bulk"}.',
            id="django_tasks_cloud_tasks.E002",
        )
    return Error(
        f"{where}: {fault.message}.",
        hint="Correct this entry of TASKS; the README has the table of options.",
        id="django_tasks_cloud_tasks.E001",
    )


def check_backend(backend: SiteBackend) -> list[CheckMessage]:
    """Return the messages of `check` for a backend.

    One run returns all faults. A fault of the site or of a database is reported only for the first
    backend that it concerns.
    """
    subject = _read(backend)
    return [
        *(_option_fault(fault, subject.where) for fault in subject.faults),
        *_check_environment(subject),
        *_check_app(subject),
        *_check_queue_names(subject),
        *_check_cloud_queues(subject),
        *_check_schedules(subject),
        *_check_path(subject),
        *_check_audience(subject),
        *_check_emulator(subject),
        *_check_results(subject),
        *_check_client(subject),
    ]


def check_deployment(**kwargs: Any) -> list[CheckMessage]:  # noqa: ARG001, ANN401 - Django's signature
    """Return the additional messages of `check --deploy` for all backends of the site."""
    from .registry import backends

    subjects = [_read(backend) for backend in backends()]
    found: list[CheckMessage] = []
    for subject in subjects:
        found += [*_check_https(subject), *_check_open_door(subject)]
    return [*found, *_check_deliveries(subjects)]


def _check_client(subject: _Subject) -> Iterator[CheckMessage]:
    """Check that the client can send the retry settings of the tasks."""
    policies = [subject.options.policy, *subject.backend.declared_policies]
    carried = [retry_settings(policy, sends_retry_config=True) for policy in policies]
    if any(carried) and not sends_retry_config():
        since = ".".join(map(str, RETRY_CONFIG_SINCE))
        yield Info(
            f"{subject.where}: google-cloud-tasks {client_version()} cannot send retry settings "
            "of a task. The endpoint makes another Cloud Task for each next attempt instead.",
            hint=f"Install google-cloud-tasks {since} or newer.",
            id="django_tasks_cloud_tasks.I002",
        )


def _check_environment(subject: _Subject) -> Iterator[CheckMessage]:
    from .registry import backends

    told: set[str] = set()
    for other in map(_read, backends()):
        if other.backend.alias == subject.backend.alias:
            break
        told.update(other.environment)
    for fault in subject.environment:
        if fault not in told:
            yield Error(
                f"{subject.where}: {fault}",
                hint="Correct the variable, or remove it.",
                id="django_tasks_cloud_tasks.E005",
            )


def _check_app(subject: _Subject) -> Iterator[CheckMessage]:
    from .registry import backends

    if not apps.is_installed(APP) and subject.backend.alias == next(
        (b.alias for b in backends()), None
    ):
        yield Error(
            f"{subject.where}: the app django_tasks_cloud_tasks is not installed. It contains "
            "these checks, the commands, and the table that RESULTS needs.",
            hint="Add 'django_tasks_cloud_tasks' to INSTALLED_APPS. If you use RESULTS, run "
            "migrate.",
            id="django_tasks_cloud_tasks.E006",
        )


def _check_queue_names(subject: _Subject) -> Iterator[CheckMessage]:
    templates = subject.options.priority_queues.values()
    for queue in sorted(subject.backend.queues):
        names = [queue, *(template.replace("{queue}", queue) for template in templates)]
        for name in names:
            if not is_queue_id(name):
                yield Error(
                    f"{subject.where}: {name!r} cannot be a Cloud Tasks queue.",
                    hint="Use 1 to 100 letters, digits and hyphens in QUEUES and PRIORITY_QUEUES.",
                    id="django_tasks_cloud_tasks.E003",
                )


def _check_cloud_queues(subject: _Subject) -> Iterator[CheckMessage]:
    """Check that the backends of one location agree on the settings of its queues."""
    from .registry import backends

    def where(one: _Subject) -> tuple[str | None, str | None]:
        return one.options.project, one.options.location

    others = [one for one in map(_read, backends()) if where(one) == where(subject)]
    if subject.backend.alias != others[0].backend.alias:
        return
    wanted = {one.backend.alias: wanted_of(one.backend, one.options) for one in others}
    for contradiction in combined(wanted)[1]:
        yield Error(
            f"{subject.where}: {contradiction}",
            hint="Set the same value in both CLOUD_QUEUES, or remove one of them.",
            id="django_tasks_cloud_tasks.E010",
        )


def _check_schedules(subject: _Subject) -> Iterator[CheckMessage]:
    """Check that the tasks of the schedules can be enqueued, and that their names are unique."""
    from .registry import backends

    if not subject.options.schedules or subject.faults:
        return
    for one in site_schedules([subject.backend.alias]):
        if fault := one.fault():
            yield Error(
                f"{subject.where}: the schedule {one.schedule.name!r} cannot enqueue its task: "
                f"{fault}",
                hint="Correct SCHEDULES.",
                id="django_tasks_cloud_tasks.E011",
            )
        if needs_relay(one.schedule.rhythm) and not subject.options.results:
            yield Error(
                f"{subject.where}: the schedule {one.schedule.name!r} ticks more than once a "
                "minute. That needs RESULTS, because Cloud Scheduler makes at most one call a "
                "minute.",
                hint="Set RESULTS to 'database' and run cloudtasks_relay, or use an interval of at "
                "least one minute.",
                id="django_tasks_cloud_tasks.E012",
            )
    for other in map(_read, backends()):
        if other.backend.alias == subject.backend.alias:
            break
        for name in sorted(other.options.schedules.keys() & subject.options.schedules.keys()):
            yield Error(
                f"{subject.where}: the schedule {name!r} also exists in {other.where}.",
                hint="Give each schedule of the site its own name.",
                id="django_tasks_cloud_tasks.E013",
            )


def _check_path(subject: _Subject) -> Iterator[CheckMessage]:
    path, prefix = subject.options.handler_path, _prefix()
    if "TASK_HANDLER_PATH" in subject.faulty:
        return
    if prefix and _below(prefix, path) is None:
        yield Warning(
            f"{subject.where}: Cloud Tasks will deliver to {path}, but the paths of the site begin "
            f"with {prefix}.",
            hint=f"Set TASK_HANDLER_PATH to {prefix}{path}, or to the public path of the view.",
            id="django_tasks_cloud_tasks.W001",
        )
    elif not _executes_tasks(subject):
        yield Warning(
            f"{subject.where}: no view executes tasks at {path}, where Cloud Tasks will deliver "
            "them.",
            hint=(
                "Add path('cloudtasks/', include('django_tasks_cloud_tasks.urls')) to the root "
                "URLconf, or set TASK_HANDLER_PATH to the path where it is included. Silence this "
                "check if another service executes the tasks, or if a decorator hides the view."
            ),
            id="django_tasks_cloud_tasks.W001",
        )


def _prefix() -> str:
    """Return the path prefix of the whole site; empty without one."""
    prefix = settings.FORCE_SCRIPT_NAME or get_runtime().environ.get("SCRIPT_NAME", "")
    return prefix.rstrip("/")


def _below(prefix: str, path: str) -> str | None:
    """Return the path without the prefix, as the URLconf expects it; None if the prefix differs."""
    rest = path.removeprefix(prefix)
    return rest if rest.startswith("/") and path.startswith(prefix) else None


def _view_at(path: str) -> object:
    """Return the class of the view at this path of the site; None if there is none."""
    plain = unquote(urlsplit(_below(_prefix(), path) or path).path)
    language = get_language_from_path(plain) or get_language()
    try:
        with override_language(language):
            view = resolve_url(plain).func
    except (Resolver404, ImproperlyConfigured, AttributeError):
        return None
    return getattr(view, "view_class", None)


def _is_task_view(view: object) -> bool:
    from .executing.views import TaskView

    return isinstance(view, type) and issubclass(view, TaskView)


def _executes_tasks(subject: _Subject) -> bool:
    return _is_task_view(_view_at(subject.options.handler_path))


def _check_audience(subject: _Subject) -> Iterator[CheckMessage]:
    options, environ = subject.options, get_runtime().environ
    if subject.faulty & _ABOUT_TOKENS or subject.handler_host is None:
        return
    # On these platforms the handler host is detected when it is needed.
    is_detected = is_cloud_run(environ) or is_app_engine(environ)
    known = options.audience or isinstance(subject.handler_host, Found) or is_detected
    if _demands_token(options) and not known:
        yield Error(
            f"{subject.where}: the endpoint requires tokens, but their audience is not known.",
            hint="Set OIDC_AUDIENCE. Its default is TASK_HANDLER_HOST, so you can also set that.",
            id="django_tasks_cloud_tasks.E004",
        )


def _demands_token(options: BackendOptions) -> bool:
    knows_account = options.service_account is not None
    mode = options.authentication.resolved(knows_account=knows_account)
    return mode is Authentication.OIDC


def _check_emulator(subject: _Subject) -> Iterator[CheckMessage]:
    if subject.emulator_host and not settings.DEBUG:
        yield Warning(
            f"{subject.where}: tasks go to the emulator at {subject.emulator_host}, but DEBUG "
            "is off.",
            hint=(
                "In production, remove EMULATOR_HOST from OPTIONS and CLOUD_TASKS_EMULATOR_HOST "
                "from the environment. While one of them is set, the site trusts the emulator's "
                "tokens."
            ),
            id="django_tasks_cloud_tasks.W002",
        )


def _check_results(subject: _Subject) -> Iterator[CheckMessage]:
    from .registry import backends

    database, alias = subject.results_database, subject.backend.alias
    if database is None:
        return
    everyone = map(_read, backends())
    recording = [other for other in everyone if other.results_database is not None]
    first = recording[0] if recording else subject
    if database not in settings.DATABASES:
        yield Error(
            f"{subject.where}: RESULTS_DATABASE is {database!r}, which is not in DATABASES.",
            hint="Name an alias of DATABASES.",
            id="django_tasks_cloud_tasks.E007",
        )
    else:
        entry = settings.DATABASES[database]
        yield from _check_lease(entry, database, subject)
        sharers = [other for other in recording if other.results_database == database]
        if not sharers or sharers[0].backend.alias == alias:
            yield from _check_transactions(entry, database, subject.where)
            yield from _check_connections(entry, database, subject)
    if first.results_database != database:
        yield Error(
            f"{subject.where}: its results go to the database {database!r}, but those of "
            f"{first.backend.alias!r} go to {first.results_database!r}.",
            hint="Use one RESULTS_DATABASE for all backends: the admin shows one table.",
            id="django_tasks_cloud_tasks.E008",
        )


def _is_shared_file(entry: Mapping[str, Any]) -> bool:
    """Return whether this is an SQLite database that several processes can use."""
    is_sqlite = "sqlite" in str(entry.get("ENGINE", ""))
    return is_sqlite and "memory" not in str(entry.get("NAME", ""))


def _check_transactions(
    entry: Mapping[str, Any], database: str, where: str
) -> Iterator[CheckMessage]:
    """Check for settings that prevent the commit of records or the success of atomic tasks."""
    engine, options = str(entry.get("ENGINE", "")), entry.get("OPTIONS", {})
    if entry.get("AUTOCOMMIT", True) is False:
        yield Error(
            f"{where}: DATABASES[{database!r}] has AUTOCOMMIT off. The records of tasks would be "
            "committed only by a later commit on the same connection, or never.",
            hint="Remove AUTOCOMMIT, or name another database in RESULTS_DATABASE.",
            id="django_tasks_cloud_tasks.E009",
        )
    mode = str(options.get("transaction_mode", "")).upper()
    if _is_shared_file(entry) and mode not in {"IMMEDIATE", "EXCLUSIVE"}:
        yield Warning(
            f"{where}: in DATABASES[{database!r}], a transaction takes its lock at its first "
            "write. It fails if another process has written since the transaction began.",
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
            f"{where}: the isolation level of DATABASES[{database!r}] is stricter than READ "
            "COMMITTED. An atomic task fails if its lease is renewed while it runs.",
            hint="Remove isolation_level from its OPTIONS, or keep atomic tasks short.",
            id="django_tasks_cloud_tasks.W006",
        )


def _check_lease(
    entry: Mapping[str, Any], database: str, subject: _Subject
) -> Iterator[CheckMessage]:
    """Check that the timeout of the database leaves enough time to renew a lease."""
    lease = subject.options.lease.total_seconds()
    busy = float(entry.get("OPTIONS", {}).get("timeout", _SQLITE_TIMEOUT))
    if _is_shared_file(entry) and lease < _LEASE_TO_TIMEOUT * busy:
        yield Warning(
            f"{subject.where}: LEASE is {lease:g} s, but a write to DATABASES[{database!r}] may "
            f"wait {busy:g} s for other writes. A lease can end while its renewal waits.",
            hint=f"Set LEASE to {_LEASE_TO_TIMEOUT * busy:g} or more, or set a shorter 'timeout' "
            "in the OPTIONS of the database.",
            id="django_tasks_cloud_tasks.W007",
        )


def _check_connections(
    entry: Mapping[str, Any], database: str, subject: _Subject
) -> Iterator[CheckMessage]:
    """Check for settings that use up the connections of the database."""
    own, where = entry.get("OPTIONS", {}), subject.where
    if entry.get("CONN_MAX_AGE", 0) != 0 and _is_served_by_the_async_view(subject.options):
        yield Warning(
            f"{where}: DATABASES[{database!r}] keeps its connections open (CONN_MAX_AGE). Tasks "
            "are executed over ASGI, where each request has its own thread. So more and more "
            "connections stay open.",
            hint="Set CONN_MAX_AGE to 0; for PostgreSQL, use the option 'pool' instead.",
            id="django_tasks_cloud_tasks.W008",
        )
    pool = own.get("pool")
    size = pool.get("max_size") or pool.get("min_size", 2) if isinstance(pool, Mapping) else None
    if size == 1:
        yield Warning(
            f"{where}: the pool of DATABASES[{database!r}] has one connection. While an atomic "
            "task holds it, nothing else in the process can use the database.",
            hint="Set max_size to at least the number of threads that run tasks in a process.",
            id="django_tasks_cloud_tasks.W009",
        )


def _is_served_by_the_async_view(options: BackendOptions) -> bool:
    from .executing.views import AsyncExecuteTaskView

    view = _view_at(options.handler_path)
    return isinstance(view, type) and issubclass(view, AsyncExecuteTaskView)


def _check_https(subject: _Subject) -> Iterator[CheckMessage]:
    host = subject.handler_host
    if isinstance(host, Found) and not host.value.startswith("https://"):
        yield Warning(
            f"{subject.where}: tasks, with their tokens or signatures, are sent unencrypted to "
            f"{host.value} "
            f"({host.source}).",
            hint="Use an https:// address.",
            id="django_tasks_cloud_tasks.W003",
        )


def _check_open_door(subject: _Subject) -> Iterator[CheckMessage]:
    if subject.options.authentication is Authentication.NONE:
        yield Warning(
            f"{subject.where}: AUTHENTICATION is 'none'. Anybody who can reach the endpoint can "
            "run any task with any arguments.",
            hint="Remove the option. The default needs no other setting.",
            id="django_tasks_cloud_tasks.W004",
        )


def _check_deliveries(subjects: Sequence[_Subject]) -> Iterator[CheckMessage]:
    """Check that a delivery reaches the view. Each obstacle is reported once for all backends."""
    told: set[Obstacle] = set()
    for subject in subjects:
        options, host = subject.options, subject.handler_host
        path, is_there = _below(_prefix(), options.handler_path), _executes_tasks(subject)
        if path is None or not (is_there or _executes_tasks_somewhere()):
            continue  # `check_backend` reports it, or another service executes the tasks.
        trial = Trial(
            host=host.value if isinstance(host, Found) else None,
            path=path,
            carries_token=_may_carry_token(options),
            over_asgi=_is_served_by_the_async_view(options),
        )
        for obstacle in obstacles(trial):
            is_told = obstacle in told or (obstacle.cause == path and not is_there)
            told.add(obstacle)
            if not is_told:
                yield Warning(
                    f"{subject.where}: Cloud Tasks cannot deliver to {options.handler_path}: "
                    f"{obstacle.what}.",
                    hint=obstacle.hint,
                    id="django_tasks_cloud_tasks.W010",
                )
        if trial.host is None and "*" not in settings.ALLOWED_HOSTS:
            yield Info(
                f"{subject.where}: the address of the app is not known, so its host was not "
                "compared with ALLOWED_HOSTS.",
                hint="Set TASK_HANDLER_HOST, so that this is checked too.",
                id="django_tasks_cloud_tasks.I001",
            )


def _may_carry_token(options: BackendOptions) -> bool:
    """Return whether tasks probably carry a token. The metadata server is not asked."""
    environ = get_runtime().environ
    is_detected = is_cloud_run(environ) or is_app_engine(environ)
    knows_account = options.service_account is not None or is_detected
    mode = options.authentication.resolved(knows_account=knows_account)
    return mode in {Authentication.OIDC, Authentication.PLATFORM}


def _executes_tasks_somewhere() -> bool:
    """Return whether any view of the site executes tasks."""
    try:
        return any(map(_is_task_view, _views(get_resolver())))
    except (ImproperlyConfigured, AttributeError):
        return False


def _views(resolver: URLResolver) -> Iterator[object]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _views(pattern)
        else:
            yield getattr(pattern.callback, "view_class", None)
