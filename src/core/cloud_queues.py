"""The option CLOUD_QUEUES: the settings that Cloud Tasks queues should have, and what to change.

A setting that the option does not name is left as it is. The names, ranges and defaults are those
of the API reference of Cloud Tasks for `Queue`, and of the emulator's captures of production.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from typing import Any

import attrs

from .backoff import seconds_of
from .names import QueueName, is_queue_id

_HIGHEST_RATE, _MOST_CONCURRENT = 500, 5_000
_HIGHEST_COUNT = 2**31 - 1


@attrs.frozen(kw_only=True)
class QueueSettings:
    """The settings of a queue. None means: not set here.

    Attributes:
        max_dispatches_per_second: the maximum rate of dispatches, more than 0 and at most 500.
        max_concurrent_dispatches: the maximum number of concurrent dispatches, 1 to 5,000.
        max_attempts: the maximum number of dispatches of a Cloud Task; -1 for no limit.
        min_backoff, max_backoff: the shortest and the longest wait between two dispatches.
        max_doublings: how many times the wait doubles before it grows linearly.
        max_retry_duration: how long Cloud Tasks repeats a task; 0 for no limit.
        logging_sampling_ratio: the share of operations that Cloud Logging gets, from 0 to 1.
    """

    max_dispatches_per_second: float | None = None
    max_concurrent_dispatches: int | None = None
    max_attempts: int | None = None
    min_backoff: timedelta | None = None
    max_backoff: timedelta | None = None
    max_doublings: int | None = None
    max_retry_duration: timedelta | None = None
    logging_sampling_ratio: float | None = None

    @property
    def ignored_at_creation(self) -> "QueueSettings":
        """The settings that Cloud Tasks ignores when it creates a queue, and not in an update.

        In a new queue, 0 doublings mean the default.
        """
        return self.only({"max_doublings"} if self.max_doublings == 0 else set())

    def over(self, others: "QueueSettings") -> "QueueSettings":
        """Return these settings, completed by others."""
        named: dict[str, Any] = {**others.named(), **self.named()}
        return QueueSettings(**named)

    def only(self, names: Collection[str]) -> "QueueSettings":
        """Return these settings without all others."""
        return attrs.evolve(self, **dict.fromkeys(attrs.asdict(self).keys() - names))

    def named(self) -> dict[str, float | int | timedelta]:
        """Return the settings that are set, by name."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)


@attrs.frozen(kw_only=True)
class CloudQueue:
    """A queue of Cloud Tasks.

    Attributes:
        id: the id of the queue.
        state: `RUNNING`, `PAUSED` or `DISABLED`.
        settings: all settings of the queue.
    """

    id: str
    state: str
    settings: QueueSettings


# The option.


def _number(
    lowest: float, highest: float, *, whole: bool = False, exclusive: bool = False
) -> Callable[[object], float]:
    """Return a reader for numbers in a range; with `exclusive` the lowest is not in the range."""
    kind = "a whole number" if whole else "a number"
    said = f"{kind} from {lowest:,} to {highest:,}"
    if exclusive:
        said = f"{kind} that is more than {lowest:,} and at most {highest:,}"

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(said)  # noqa: TRY004 - one kind of fault
        if not lowest <= value <= highest or (exclusive and value == lowest):
            raise ValueError(said)
        return value

    return read


def _max_attempts(value: object) -> int:
    if value == -1 and type(value) is int:
        return -1
    return int(_number(1, _HIGHEST_COUNT, whole=True)(value))


def _wait(value: object) -> timedelta:
    try:
        return timedelta(seconds=seconds_of(value))
    except ValueError:
        raise ValueError("a number of seconds or a timedelta, 0 or more") from None


_READERS: Mapping[str, Callable[[object], Any]] = {
    "max_dispatches_per_second": _number(0, _HIGHEST_RATE, exclusive=True),
    "max_concurrent_dispatches": _number(1, _MOST_CONCURRENT, whole=True),
    "max_attempts": _max_attempts,
    "min_backoff": _wait,
    "max_backoff": _wait,
    "max_doublings": _number(0, _HIGHEST_COUNT, whole=True),
    "max_retry_duration": _wait,
    "logging_sampling_ratio": _number(0, 1),
}


def read_cloud_queues(value: object) -> dict[str, QueueSettings]:
    """Check the value of the option. Return the settings by the id of the queue.

    Raises:
        ValueError: the value is wrong. The text completes "CLOUD_QUEUES must be ...".
    """
    if not isinstance(value, Mapping):
        raise ValueError("a mapping from queue ids to dicts of settings")  # noqa: TRY004 - one kind of fault
    queues = {}
    for name, settings in value.items():
        if not isinstance(name, str) or not is_queue_id(name):
            raise ValueError(
                "a mapping whose keys are queue ids of letters, digits and hyphens "
                f"({name!r} is not)"
            )
        if not isinstance(settings, Mapping):
            raise ValueError(  # noqa: TRY004 - one kind of fault
                f"a mapping to dicts of settings ({name!r} has {settings!r})"
            )
        queues[name] = _read_settings(name, settings)
    return queues


def _read_settings(queue: str, settings: Mapping[object, object]) -> QueueSettings:
    read: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(name, str) or name not in _READERS:
            raise ValueError(
                f"a mapping to dicts with the keys {', '.join(_READERS)} ({queue!r} has {name!r})"
            )
        try:
            read[name] = _READERS[name](value)
        except ValueError as error:
            raise ValueError(
                f"a mapping in which {name} is {error} ({queue!r} has {value!r})"
            ) from None
    low, high = read.get("min_backoff"), read.get("max_backoff")
    if low is not None and high is not None and low > high:
        raise ValueError(
            f"a mapping in which min_backoff is not longer than max_backoff ({queue!r} has {low} "
            f"and {high})"
        )
    return QueueSettings(**read)


def wanted_queues(
    cloud_queues: Mapping[str, QueueSettings],
    *,
    queue_names: Collection[str],
    thresholds: Mapping[int, str],
) -> dict[str, QueueSettings]:
    """Return the queues that a backend sends tasks to, with the settings that they should have.

    These are the queues of CLOUD_QUEUES and of QUEUES, and for each of them the queues of
    PRIORITY_QUEUES. A queue of PRIORITY_QUEUES without own settings has those of its base.

    Args:
        cloud_queues: the option CLOUD_QUEUES.
        queue_names: the names in QUEUES.
        thresholds: the option PRIORITY_QUEUES.
    """
    named = dict.fromkeys((*cloud_queues, *filter(is_queue_id, queue_names)))
    derived = {
        base: [template.replace("{queue}", base) for template in thresholds.values()]
        for base in named
    }
    variants = {name for base, names in derived.items() for name in names if name != base}
    wanted: dict[str, QueueSettings] = {}
    for base in named:
        wanted[base] = cloud_queues.get(base, QueueSettings())
        if base in variants:
            continue
        for name in derived[base]:
            wanted.setdefault(name, cloud_queues.get(name, wanted[base]))
    return wanted


def combined(
    wanted: Mapping[str, Mapping[str, QueueSettings]],
) -> tuple[dict[str, QueueSettings], list[str]]:
    """Combine the wanted queues of several backends in one location.

    Args:
        wanted: the settings by the alias of the backend and the id of the queue.

    Returns:
        The settings by the id of the queue, and a text for each contradiction.
    """
    total: dict[str, QueueSettings] = {}
    said_by: dict[tuple[str, str], str] = {}
    contradictions = []
    for alias, queues in wanted.items():
        for queue, settings in queues.items():
            before = total.get(queue, QueueSettings())
            for name, value in settings.named().items():
                other = before.named().get(name, value)
                if other != value:
                    contradictions.append(
                        f"The backends {said_by[queue, name]!r} and {alias!r} have different "
                        f"values of {name} for the queue {queue!r}: {shown(other)} and "
                        f"{shown(value)}."
                    )
                said_by.setdefault((queue, name), alias)
            total[queue] = before.over(settings)
    return total, contradictions


# The differences.


@attrs.frozen
class CreateQueue:
    """The queue does not exist, and should have these settings."""

    queue: QueueName
    settings: QueueSettings


@attrs.frozen
class UpdateQueue:
    """The queue exists with other settings.

    Attributes:
        queue: the queue.
        settings: the wanted value of each setting that differs.
        current: the current value of the same settings.
    """

    queue: QueueName
    settings: QueueSettings
    current: QueueSettings


@attrs.frozen
class DeleteQueue:
    """The queue exists, and no backend sends tasks to it."""

    queue: QueueName


type Change = CreateQueue | UpdateQueue | DeleteQueue


def changes(
    wanted: Mapping[str, QueueSettings],
    existing: Collection[CloudQueue],
    *,
    project: str,
    location: str,
    delete: bool = False,
) -> list[Change]:
    """Return the changes after which the queues of a location have the wanted settings.

    Args:
        wanted: the settings by the id of the queue.
        existing: all queues of the location.
        project, location: where the queues are.
        delete: whether to delete the queues that are not wanted.
    """
    known = {queue.id: queue for queue in existing}
    found: list[Change] = []
    for name, settings in wanted.items():
        queue = QueueName(project, location, name)
        if name not in known:
            found.append(CreateQueue(queue, settings))
            continue
        current = known[name].settings.named()
        other = {k for k, value in settings.named().items() if current.get(k) != value}
        if other:
            found.append(UpdateQueue(queue, settings.only(other), known[name].settings.only(other)))
    if delete:
        found += [
            DeleteQueue(QueueName(project, location, name))
            for name in sorted(known.keys() - wanted.keys())
        ]
    return found


def described(change: Change) -> list[str]:
    """Return lines that describe a change for people."""
    match change:
        case CreateQueue(queue, settings):
            named = [f"    {name}: {shown(value)}" for name, value in settings.named().items()]
            return [f"+ {queue.queue}", *named]
        case DeleteQueue(queue):
            return [f"- {queue.queue}"]
        case UpdateQueue(queue, settings, current):
            before = current.named()
            return [
                f"~ {queue.queue}",
                *(
                    f"    {name}: {shown(before.get(name))} -> {shown(value)}"
                    for name, value in settings.named().items()
                ),
            ]


def shown(value: object) -> str:
    """Return the text of a setting for people."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, float):
        return f"{value:g}"
    return "not set" if value is None else str(value)


# The same as commands and as configuration of other tools.

# The flags of gcloud, and the blocks and names of Terraform's google_cloud_tasks_queue.
_FLAGS = {"logging_sampling_ratio": "--log-sampling-ratio"}
_BLOCKS = {
    "max_dispatches_per_second": "rate_limits",
    "max_concurrent_dispatches": "rate_limits",
    "logging_sampling_ratio": "stackdriver_logging_config",
}
_TERRAFORM_NAMES = {"logging_sampling_ratio": "sampling_ratio"}


def as_gcloud(change: Change) -> list[str]:
    """Return the `gcloud` commands that make a change."""
    match change:
        case DeleteQueue(queue):
            return [f"{_gcloud('delete', queue, QueueSettings())} --quiet"]
        case CreateQueue(queue, settings):
            ignored = settings.ignored_at_creation
            more = [_gcloud("update", queue, ignored)] if ignored.named() else []
            return [_gcloud("create", queue, settings), *more]
        case UpdateQueue(queue, settings, _):
            return [_gcloud("update", queue, settings)]


def _gcloud(action: str, queue: QueueName, settings: QueueSettings) -> str:
    where = f"--project={queue.project} --location={queue.location}"
    flags = [
        f"{_FLAGS.get(name, '--' + name.replace('_', '-'))}={_as_flag(name, value)}"
        for name, value in settings.named().items()
    ]
    return " ".join([f"gcloud tasks queues {action} {queue.queue} {where}", *flags])


def _as_flag(name: str, value: float | timedelta) -> str:
    if name == "max_attempts" and value == -1:
        return "unlimited"
    return _as_duration(value) if isinstance(value, timedelta) else f"{value:g}"


def _as_duration(value: timedelta) -> str:
    return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def as_terraform(queue: QueueName, settings: QueueSettings) -> str:
    """Return the Terraform resource of a queue."""
    return "\n".join(
        [
            f'resource "google_cloud_tasks_queue" "{queue.queue}" {{',
            f'  project  = "{queue.project}"',
            f'  location = "{queue.location}"',
            f'  name     = "{queue.queue}"',
            *_terraform_blocks(settings),
            "}",
        ]
    )


def _terraform_blocks(settings: QueueSettings) -> Iterator[str]:
    blocks: dict[str, dict[str, str]] = {}
    for name, value in settings.named().items():
        text = f'"{_as_duration(value)}"' if isinstance(value, timedelta) else f"{value:g}"
        block = blocks.setdefault(_BLOCKS.get(name, "retry_config"), {})
        block[_TERRAFORM_NAMES.get(name, name)] = text
    for block_name, block in blocks.items():
        width = max(map(len, block))
        lines = [f"    {name:{width}} = {text}" for name, text in block.items()]
        yield from ("", f"  {block_name} {{", *lines, "  }")
