"""The configuration of a backend: its OPTIONS and the values that are detected when needed."""

import logging
from collections.abc import Iterable, Mapping
from functools import cached_property

from django.conf import settings

from ..adapters.client_version import sends_retry_config
from ..adapters.guarded_queue import GuardedTaskQueue
from ..core.authorization import Policy, resolve_policy
from ..core.detection import (
    Detected,
    Found,
    Missing,
    find_handler_host,
    find_location,
    find_project,
    find_service_account,
)
from ..core.errors import ConfigurationError, OptionFault
from ..core.options import Authentication, BackendOptions, is_address
from ..core.ports import ResultStore, TokenVerifier
from ..core.requests import OidcIdentity, Route
from .installation import demand_app
from .runtime import Find, Runtime, get_runtime

logger = logging.getLogger("django_tasks_cloud_tasks")

_EMULATOR_VARIABLE = "CLOUD_TASKS_EMULATOR_HOST"


def configuration_for(
    alias: str, options: Mapping[str, object], beside: frozenset[str] = frozenset()
) -> "Configuration":
    """Return the configuration of a backend. All threads of the process share it.

    Django creates a backend for each thread, and with ASGI for each request. The detected values
    are kept in the shared configuration, so that they are detected only once.

    Args:
        alias: the alias of the backend.
        options: its OPTIONS.
        beside: see `BackendOptions.from_mapping`.
    """
    kept = get_runtime().configurations
    configuration = kept.get(alias)
    if not isinstance(configuration, Configuration) or configuration.raw != options:
        configuration = kept[alias] = Configuration(options, get_runtime(), beside)
    return configuration


def emulator_host(options: BackendOptions, environ: Mapping[str, str]) -> str | None:
    """Return HOST:PORT of the emulator from the options or the environment; None without one.

    Raises:
        ConfigurationError: the value in the environment is not HOST:PORT.
    """
    host = options.emulator_host or environ.get(_EMULATOR_VARIABLE)
    if host and not is_address(host):
        raise ConfigurationError(
            f"{_EMULATOR_VARIABLE} is {host!r}, but it must be HOST:PORT, such as 'localhost:8123'."
        )
    return host or None


def stores_of(configurations: Iterable["Configuration"]) -> list[ResultStore]:
    """Return the distinct result stores of these configurations."""
    return list({id(c.results): c.results for c in configurations if c.results}.values())


class Configuration:
    """The configuration of a backend. Each part is computed once, when it is first used.

    A property that needs the options raises `OptionsError` if one of them is faulty.
    """

    def __init__(
        self,
        options: Mapping[str, object],
        runtime: Runtime,
        beside: frozenset[str] = frozenset(),
    ) -> None:
        self.raw = options
        self._beside = beside
        self._runtime = runtime
        self._policies: dict[bool, Policy] = {}
        self._route: Route | None = None
        self._known_account: str | None = None

    @cached_property
    def options(self) -> BackendOptions:
        """The checked options."""
        return BackendOptions.from_mapping(self.raw, self._beside)

    @property
    def readable_options(self) -> tuple[BackendOptions, tuple[OptionFault, ...]]:
        """The options with the default for each faulty option, and all faults."""
        return BackendOptions.read(self.raw, self._beside)

    @cached_property
    def emulator_host(self) -> str | None:
        """HOST:PORT of the emulator; None without one.

        Raises:
            ConfigurationError: the value in the environment is not HOST:PORT.
        """
        return emulator_host(self.options, self._runtime.environ)

    @cached_property
    def queue(self) -> GuardedTaskQueue:
        """The queue that creates the tasks.

        Each backend has its own circuit breaker, because its project has its own quotas and its
        ENQUEUE_TIMEOUT may differ.
        """
        return GuardedTaskQueue(self._runtime.queue(self.emulator_host), clock=self._runtime.clock)

    @cached_property
    def tokens(self) -> TokenVerifier:
        """The verifier of identity tokens."""
        return self._runtime.tokens(self.emulator_host)

    @cached_property
    def results(self) -> ResultStore | None:
        """The result store; None if the backend keeps no results.

        Raises:
            ConfigurationError: the app, which contains the table, is not installed.
        """
        if self.options.results is None:
            return None
        demand_app()
        return self._runtime.results(self.options.results_database)

    def detections(self) -> dict[str, Detected]:
        """Return the values that tasks need, with their sources, by the name of the option.

        Raises:
            ConfigurationError: a value in the environment is not valid, or the metadata server
                does not answer.
        """
        options = self.options
        found = {
            "CLOUD_TASKS_PROJECT": self._detect(find_project, options.project),
            "CLOUD_TASKS_LOCATION": self._detect(find_location, options.location),
            "TASK_HANDLER_HOST": self._handler_host,
        }
        if options.authentication.may_use_tokens:
            account = self._detect(find_service_account, options.service_account)
            found["OIDC_SERVICE_ACCOUNT_EMAIL"] = account
        return found

    @property
    def location(self) -> tuple[str, str]:
        """The ids of the project and of the location of the queues.

        Raises:
            ConfigurationError: one of them is neither set nor detected.
        """
        options = self.options
        return (
            _value(self._detect(find_project, options.project)),
            _value(self._detect(find_location, options.location)),
        )

    @property
    def sends_retry_config(self) -> bool:
        """Whether the client can send the retry settings of a single task."""
        return sends_retry_config()

    @property
    def may_block(self) -> bool:
        """Whether reading `route` or `policy` may wait for the metadata server.

        If so, code on an event loop must read them in a thread first.
        """
        if self._route or self._policies:
            return False
        options = self.options
        given = (options.project, options.location, options.handler_host)
        complete = all(given) and (
            options.service_account or not options.authentication.may_use_tokens
        )
        return not (complete or self._is_off_google_cloud)

    @property
    def route(self) -> Route:
        """The queues and the URL for the tasks.

        Raises:
            ConfigurationError: a value is neither set nor detected.
        """
        if self._route is not None:
            return self._route
        options = self.options
        account = self._service_account
        oidc = None
        if account:
            audience = options.audience or _value(self._handler_host)
            oidc = OidcIdentity(service_account_email=account, audience=audience)
        project, location = self.location
        route = Route(
            project=project,
            location=location,
            url=_value(self._handler_host) + options.handler_path,
            oidc=oidc,
            dispatch_deadline=options.dispatch_deadline,
            thresholds=options.priority_queues,
            name_tasks=options.name_tasks,
            sends_retry_config=self.sends_retry_config,
        )
        if self._is_settled:
            self._route = route
        return route

    @property
    def policy(self) -> Policy:
        """The proof that a request to execute a task of this backend must contain.

        Raises:
            ConfigurationError: the mode requires a token, but no service account is known.
        """
        policy = self._policies.get(settings.DEBUG)
        if policy is None:
            account = self._service_account
            audience = self.options.audience
            if account and not audience:
                host = self._handler_host
                audience = host.value if isinstance(host, Found) else None
            policy = resolve_policy(
                self.options.authentication,
                service_account=account,
                audience=audience,
                debug=settings.DEBUG,
                earlier_service_accounts=self.options.service_account_fallbacks,
                earlier_audiences=self.options.audience_fallbacks,
            )
            if self._is_settled:
                self._policies[settings.DEBUG] = policy
        return policy

    def _detect(self, find: Find, option: str | None) -> Detected:
        return self._runtime.detect(find, option, self.emulator_host)

    @property
    def _is_off_google_cloud(self) -> bool:
        """Whether it is certain that there is no metadata server."""
        return self._runtime.metadata(self.emulator_host).is_absent

    @property
    def _is_settled(self) -> bool:
        """Whether the detected service account is final.

        A missing account is not final while there is a metadata server, because the server may
        return the account later.
        """
        return (
            self._known_account is not None
            or not self.options.authentication.may_use_tokens
            or self._is_off_google_cloud
        )

    @property
    def _service_account(self) -> str | None:
        """The service account whose token tasks carry; None without one."""
        if self._known_account or not self.options.authentication.may_use_tokens:
            return self._known_account
        found = self._detect(find_service_account, self.options.service_account)
        if isinstance(found, Found):
            self._known_account = found.value
            return found.value
        if self.options.authentication is Authentication.AUTO:
            return None
        raise found.error(emulated=self.emulator_host is not None)

    @cached_property
    def _handler_host(self) -> Detected:
        found = self._detect(find_handler_host, self.options.handler_host)
        if isinstance(found, Found) and found.caution:
            logger.warning(
                "Tasks are sent to %s (%s). This address is a guess: %s.",
                found.value,
                found.source,
                found.caution,
            )
        return found


def _value(detected: Detected) -> str:
    if isinstance(detected, Missing):
        raise detected.error()
    return detected.value
