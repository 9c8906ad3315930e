"""The `OPTIONS` of a backend: their types, defaults and checks.

For an unknown option, the error message names the most similar known option.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from typing import Any, Self

import attrs

from .backoff import Backoff
from .cloud_queues import QueueSettings, read_cloud_queues
from .errors import OptionFault, OptionsError
from .names import is_location_id, is_project_id, is_queue_id
from .retry_policy import (
    BackoffFunction,
    TaskPolicy,
    read_backoff,
    read_max_attempts,
    read_timeout,
)
from .schedules import Schedule, read_schedules

_HIGHEST_PRIORITY = 100
_EMAIL = re.compile(r"[^@\s<>,;:\"()\[\]\\]+@[A-Za-z0-9.-]+")
_LONGEST_TIMEOUT = 3600  # seconds


class Authentication(Enum):
    """The proof that a request to execute a task must contain. See `authorization`."""

    AUTO = "auto"
    OIDC = "oidc"
    SIGNATURE = "signature"
    PLATFORM = "platform"
    NONE = "none"

    def resolved(self, *, knows_account: bool) -> "Authentication":
        """Return the effective mode: `auto` means `oidc` if a service account is known."""
        if self is not Authentication.AUTO:
            return self
        return Authentication.OIDC if knows_account else Authentication.SIGNATURE

    @property
    def may_use_tokens(self) -> bool:
        """Whether tasks can carry a token. Otherwise the service account is not detected."""
        return self not in {Authentication.SIGNATURE, Authentication.NONE}


class Results(Enum):
    """Where the results of tasks are kept."""

    DATABASE = "database"


class LostTasks(Enum):
    """How the relay handles a recorded task that Cloud Tasks no longer has."""

    FAIL = "fail"
    REDELIVER = "redeliver"


@attrs.frozen(kw_only=True)
class BackendOptions:
    """The checked options of one entry of `TASKS`.

    None means that the option is not set; detection or a default then applies. `enqueue_timeout` is
    in seconds.
    """

    project: str | None = None
    location: str | None = None
    handler_host: str | None = None
    handler_path: str = "/cloudtasks/execute/"
    service_account: str | None = None
    service_account_fallbacks: tuple[str, ...] = ()
    audience: str | None = None
    audience_fallbacks: tuple[str, ...] = ()
    authentication: Authentication = Authentication.AUTO
    emulator_host: str | None = None
    dispatch_deadline: timedelta | None = None
    enqueue_timeout: float = 10.0
    enqueue_on_commit: bool | str = False
    name_tasks: bool = True
    priority_queues: Mapping[int, str] = attrs.field(factory=dict)
    results: Results | None = None
    results_database: str = "default"
    lease: timedelta = timedelta(seconds=60)
    lost_tasks: LostTasks = LostTasks.FAIL
    cloud_queues: Mapping[str, QueueSettings] = attrs.field(factory=dict)
    schedules: Mapping[str, Schedule] = attrs.field(factory=dict)
    max_attempts: int | None = None
    backoff: Backoff | BackoffFunction | None = None
    task_timeout: timedelta | None = None

    @property
    def policy(self) -> TaskPolicy:
        """The default policy for tasks that do not set their own."""
        return TaskPolicy(
            max_attempts=self.max_attempts, backoff=self.backoff, timeout=self.task_timeout
        )

    @classmethod
    def from_mapping(cls, options: Mapping[str, object], beside: Collection[str] = ()) -> Self:
        """Read the `OPTIONS` of a backend.

        Args:
            options: the value of `OPTIONS`.
            beside: keys of the entry in `TASKS` that have no effect, because they are not inside
                `OPTIONS`.

        Raises:
            OptionsError: the options have faults. The error contains all of them.
        """
        read_options, faults = cls.read(options, beside)
        if faults:
            raise OptionsError(faults)
        return read_options

    @classmethod
    def read(
        cls, options: object, beside: Collection[str] = ()
    ) -> tuple[Self, tuple[OptionFault, ...]]:
        """Read the `OPTIONS` of a backend, and return the faults instead of raising them.

        Args:
            options: the value of `OPTIONS`, of any type.
            beside: see `from_mapping`.

        Returns:
            The options, with the default value for each faulty option, and all faults.
        """
        faults = [OptionFault(str(name), _beside(name)) for name in beside]
        if not isinstance(options, Mapping):
            faults.append(OptionFault("OPTIONS", f"OPTIONS must be a dict, not {options!r}"))
            options = {}
        values: dict[str, Any] = {}
        for name, value in options.items():
            if name not in _OPTIONS:
                faults.append(OptionFault(str(name), _unknown(name)))
                continue
            attribute, read = _OPTIONS[name]
            try:
                values[attribute] = read(value)
            except ValueError as error:
                faults.append(OptionFault(name, f"{name} must be {error}, not {value!r}"))
        read_options = attrs.evolve(cls(), **values)
        if read_options.results and not read_options.name_tasks:
            faults.append(
                OptionFault(
                    "NAME_TASKS",
                    "NAME_TASKS must be True with RESULTS: a recorded task may be created twice, "
                    "and only its name prevents two Cloud Tasks",
                )
            )
        return read_options, tuple(faults)


def _beside(name: object) -> str:
    if name in _OPTIONS:
        return f"{name!r} is beside OPTIONS, where it has no effect; move it into OPTIONS"
    near = difflib.get_close_matches(str(name).upper(), ["BACKEND", "QUEUES", "OPTIONS"], n=1)
    return f"{name!r} is not a key of an entry of TASKS" + (
        f"; did you mean {near[0]!r}?" if near else "; the keys are BACKEND, OPTIONS, QUEUES"
    )


def _unknown(name: object) -> str:
    near = difflib.get_close_matches(str(name).upper(), _OPTIONS, n=1)
    return f"{name!r} is not an option" + (
        f"; did you mean {near[0]!r}?"
        if near
        else f"; the options are {', '.join(sorted(_OPTIONS))}"
    )


# Readers convert the value of an option. They raise ValueError with a text that completes the
# sentence "OPTION must be ...".


def _string(is_valid: Callable[[str], object], said: str) -> Callable[[object], str]:
    """Return a reader for strings that are valid. `said` describes them in the error message."""

    def read(value: object) -> str:
        if isinstance(value, str) and is_valid(value):
            return value
        raise ValueError(said)

    return read


_text = _string(str.strip, "a string that is not empty")
_project = _string(is_project_id, "the id of a Google Cloud project, such as 'my-project-123'")
_location = _string(is_location_id, "a region, such as 'europe-west1'")


def _several(read: Callable[[object], str]) -> Callable[[object], tuple[str, ...]]:
    """Return a reader for a list of values."""

    def read_all(value: object) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError("a list")  # noqa: TRY004 - one kind of fault
        try:
            return tuple(map(read, value))
        except ValueError as error:
            raise ValueError(f"a list in which each item is {error}") from error

    return read_all


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("True or False")


def _on_commit(value: object) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError("True, False, or the alias of a database")


def is_web_address(text: str) -> bool:
    """Return whether `text` is an http or https URL that contains only a host and maybe a port."""
    scheme, separator, rest = text.partition("://")
    return (
        scheme in {"http", "https"}
        and bool(separator)
        and bool(rest.rstrip("/"))
        and not any(c in "/?#@" or c.isspace() for c in rest.rstrip("/"))
    )


def is_address(text: str) -> bool:
    """Return whether `text` is HOST:PORT."""
    host, _, port = text.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal()


def is_email(text: str) -> bool:
    """Return whether `text` can be the e-mail address of an account."""
    return _EMAIL.fullmatch(text) is not None


_path = _string(lambda text: text.startswith("/"), "a path that starts with '/'")
_address = _string(is_address, "HOST:PORT, such as 'localhost:8123'")
_email = _string(is_email, "the e-mail address of a service account")
_web_address = _string(is_web_address, "a URL without a path, such as 'https://app.example.com'")


def _url(value: object) -> str:
    return _web_address(value).rstrip("/")


def _authentication(value: object) -> Authentication:
    try:
        return Authentication(value)
    except ValueError:
        names = ", ".join(repr(mode.value) for mode in Authentication)
        raise ValueError(f"one of {names}") from None


def _results(value: object) -> Results | None:
    try:
        return None if value is None else Results(value)
    except ValueError:
        names = ", ".join(repr(kind.value) for kind in Results)
        raise ValueError(f"{names} or None") from None


def _lost_tasks(value: object) -> LostTasks:
    try:
        return LostTasks(value)
    except ValueError:
        names = " or ".join(repr(kind.value) for kind in LostTasks)
        raise ValueError(names) from None


def _seconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    raise ValueError("a number of seconds or a timedelta")


def _duration(shortest: timedelta, longest: timedelta, said: str) -> Callable[[object], timedelta]:
    """Return a reader for durations in a range. `said` describes the range in the error message."""

    def read(value: object) -> timedelta:
        try:
            duration = timedelta(seconds=_seconds(value))
        except (ValueError, OverflowError):
            duration = timedelta()
        if shortest <= duration <= longest:
            return duration
        raise ValueError(f"{said}, as a number of seconds or a timedelta")

    return read


_lease = _duration(timedelta(seconds=1), timedelta(hours=1), "1 second to 1 hour")


def _timeout(value: object) -> float:
    seconds = _seconds(value)
    if 0 < seconds <= _LONGEST_TIMEOUT:
        return seconds
    raise ValueError(f"more than 0 seconds, and at most {_LONGEST_TIMEOUT:,}")


def _priority_queues(value: object) -> dict[int, str]:
    if not isinstance(value, Mapping):
        raise ValueError("a mapping from thresholds to queue names")  # noqa: TRY004 - one kind of fault
    for threshold, template in value.items():
        if (
            not isinstance(threshold, int)
            or isinstance(threshold, bool)
            or abs(threshold) > _HIGHEST_PRIORITY
        ):
            raise ValueError(
                "a mapping whose thresholds are whole numbers from -100 to 100 "
                f"({threshold!r} is not)"
            )
        if not isinstance(template, str) or not is_queue_id(template.replace("{queue}", "q")):
            raise ValueError(
                "a mapping to queue ids of letters, digits and hyphens, in which '{queue}' "
                f"stands for the queue of the task ({template!r} is not such an id)"
            )
    return dict(value)


_OPTIONS: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "CLOUD_TASKS_PROJECT": ("project", _project),
    "CLOUD_TASKS_LOCATION": ("location", _location),
    "TASK_HANDLER_HOST": ("handler_host", _url),
    "TASK_HANDLER_PATH": ("handler_path", _path),
    "OIDC_SERVICE_ACCOUNT_EMAIL": ("service_account", _email),
    "OIDC_SERVICE_ACCOUNT_EMAIL_FALLBACKS": ("service_account_fallbacks", _several(_email)),
    "OIDC_AUDIENCE": ("audience", _text),
    "OIDC_AUDIENCE_FALLBACKS": ("audience_fallbacks", _several(_text)),
    "AUTHENTICATION": ("authentication", _authentication),
    "EMULATOR_HOST": ("emulator_host", _address),
    "DISPATCH_DEADLINE": ("dispatch_deadline", read_timeout),
    "ENQUEUE_TIMEOUT": ("enqueue_timeout", _timeout),
    "ENQUEUE_ON_COMMIT": ("enqueue_on_commit", _on_commit),
    "NAME_TASKS": ("name_tasks", _flag),
    "PRIORITY_QUEUES": ("priority_queues", _priority_queues),
    "CLOUD_QUEUES": ("cloud_queues", read_cloud_queues),
    "SCHEDULES": ("schedules", read_schedules),
    "RESULTS": ("results", _results),
    "RESULTS_DATABASE": ("results_database", _text),
    "LEASE": ("lease", _lease),
    "LOST_TASKS": ("lost_tasks", _lost_tasks),
    "MAX_ATTEMPTS": ("max_attempts", read_max_attempts),
    "BACKOFF": ("backoff", read_backoff),
    "TASK_TIMEOUT": ("task_timeout", read_timeout),
}
