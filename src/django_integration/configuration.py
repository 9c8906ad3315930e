"""One backend's configuration: its OPTIONS, completed from the runtime when needed."""

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
    """The configuration of a backend, shared by the process.

    Django makes a backend for each thread, and under ASGI for each request: what was looked up
    once is not looked up again for the next one.
    """
    kept = get_runtime().configurations
    configuration = kept.get(alias)
    if not isinstance(configuration, Configuration) or configuration.raw != options:
        configuration = kept[alias] = Configuration(options, get_runtime(), beside)
    return configuration


def emulator_host(options: BackendOptions, environ: Mapping[str, str]) -> str | None:
    """HOST:PORT of the emulator that options or environment name.

    Raises:
        ConfigurationError: the environment has something else.
    """
    host = options.emulator_host or environ.get(_EMULATOR_VARIABLE)
    if host and not is_address(host):
        raise ConfigurationError(
            f"{_EMULATOR_VARIABLE} is {host!r}, but it must be HOST:PORT, such as 'localhost:8123'."
        )
    return host or None


def stores_of(configurations: Iterable["Configuration"]) -> list[ResultStore]:
    """The stores that these record in, each once."""
    return list({id(c.results): c.results for c in configurations if c.results}.values())


class Configuration:
    """Everything that follows from the OPTIONS of a backend; each part is worked out once.

    Properties raise `OptionsError` for faulty options.
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
        """The options, checked."""
        return BackendOptions.from_mapping(self.raw, self._beside)

    @property
    def readable_options(self) -> tuple[BackendOptions, tuple[OptionFault, ...]]:
        """The options as far as they make sense, and what does not."""
        return BackendOptions.read(self.raw, self._beside)

    @cached_property
    def emulator_host(self) -> str | None:
        """HOST:PORT of the emulator in use, if one is.

        Raises:
            ConfigurationError: the environment has something else.
        """
        return emulator_host(self.options, self._runtime.environ)

    @cached_property
    def queue(self) -> GuardedTaskQueue:
        """Where the tasks are created.

        Each backend has a breaker of its own: another project has other quotas, and another
        ENQUEUE_TIMEOUT another idea of silence.
        """
        return GuardedTaskQueue(self._runtime.queue(self.emulator_host), clock=self._runtime.clock)

    @cached_property
    def tokens(self) -> TokenVerifier:
        """What verifies identity tokens."""
        return self._runtime.tokens(self.emulator_host)

    @cached_property
    def results(self) -> ResultStore | None:
        """Where results are kept, if they are.

        Raises:
            ConfigurationError: the app that has the table is not installed.
        """
        if self.options.results is None:
            return None
        demand_app()
        return self._runtime.results(self.options.results_database)

    @property
    def sends_retry_config(self) -> bool:
        """Whether the client can send the retry settings of one task."""
        return sends_retry_config()

    @property
    def may_block(self) -> bool:
        """Whether `route` or `policy` is unknown yet, and the metadata server may be asked for it.

        Code on an event loop lets a thread work them out then, once.
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
        """Where the tasks go.

        Raises:
            ConfigurationError: a part of it is neither set nor detected.
        """
        if self._route is not None:
            return self._route
        options = self.options
        account = self._service_account
        oidc = None
        if account:
            audience = options.audience or _value(self._handler_host)
            oidc = OidcIdentity(service_account_email=account, audience=audience)
        route = Route(
            project=_value(self._detect(find_project, options.project)),
            location=_value(self._detect(find_location, options.location)),
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
        """What a request to execute a task of this backend must prove.

        Raises:
            ConfigurationError: the mode demands a token, and no service account is known.
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
        """Whether it is certain that no metadata server will tell anything."""
        return self._runtime.metadata(self.emulator_host).is_absent

    @property
    def _is_settled(self) -> bool:
        """Whether the account will not become another: an account that is missing now may not be.

        A metadata server that is there may tell it the next time it is asked.
        """
        return (
            self._known_account is not None
            or not self.options.authentication.may_use_tokens
            or self._is_off_google_cloud
        )

    @property
    def _service_account(self) -> str | None:
        """The account whose token tasks carry; None where the mode demands no token."""
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
                "Tasks are sent to %s (%s), which is a guess: %s.",
                found.value,
                found.source,
                found.caution,
            )
        return found


def _value(detected: Detected) -> str:
    if isinstance(detected, Missing):
        raise detected.error()
    return detected.value
