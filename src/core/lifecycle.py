"""Every transition of a recorded task.

Theory of operation. A task waits, runs under a lease, and ends. A process that wants to run a task
claims it. The claim puts a new token on the record. From then on, only the holder of that token can
renew the lease or write how the attempt ended. If the lease is over, the worker died or lost its
connection, and the next delivery takes the task over.

A store makes each transition with a compare-and-swap: the change succeeds only if the fence of the
record (`records.FENCE`) is the same as when the decision was made. If two processes decide at the
same time, one succeeds, and the other decides again.

One invariant holds after every transition: a record that is not final has a time `relay.at` when
the relay looks at it, whatever happened to its deliveries. So no unfinished task is forgotten.

A record is in one of five situations, and thirteen events can happen to it. The table shows the
situations that an event can lead to. "-" means that the event is refused and changes nothing.

| event | READY | RUNNING | LOST | RETRYING | ENDED |
|---|---|---|---|---|---|
| DELIVERED | READY, RUNNING | RUNNING | RUNNING, ENDED | RETRYING, RUNNING | - |
| RENEWED | - | RUNNING | RUNNING | - | - |
| RETURNED | - | ENDED | ENDED | - | - |
| RAISED | - | RETRYING, ENDED | RETRYING, ENDED | - | - |
| SNOOZED | - | READY, RETRYING, ENDED | READY, RETRYING, ENDED | - | - |
| CANCELLED | ENDED | RUNNING | ENDED | ENDED | - |
| RUN_NOW | READY | - | LOST | RETRYING | - |
| RELAY_DUE | READY | RUNNING | LOST, ENDED | RETRYING | ENDED |
| SENT | READY | RUNNING | LOST | RETRYING | - |
| NOT_SENT | READY | RUNNING | LOST | RETRYING | - |
| FOUND | READY | - | - | RETRYING | - |
| GONE | READY, ENDED | - | - | RETRYING, ENDED | - |
| REPLAYED | - | - | - | - | ENDED |

A delivery changes nothing if the endpoint has replaced its Cloud Task by another. While an attempt
runs, other deliveries are turned away, and a cancellation is only a request. After such a request,
the task ends as cancelled if its attempt fails or its worker is lost.

A replay is a new task with its own record. It changes the record of the task that it repeats in one
way: that record gets the id of the new task.

The relay looks at a task:

| the task | when the relay looks | what the relay does |
|---|---|---|
| is recorded, not sent | after ENQUEUE_TIMEOUT and a grace period | sends it |
| is sent, but not delivered | an hour after it was due, then later each time | looks it up |
| runs | at the end of the lease | waits if the lease was renewed; else sends another |
| was sent again for a lost worker | a minute later, then later each time | sends another |
| failed, and a delivery was turned away | a minute later, then later each time | sends another |
| failed, and its queue repeats it | an hour after its next attempt is due | looks it up |
| failed, and the endpoint repeats it | after ENQUEUE_TIMEOUT and a grace period | sends it |

To look a task up means to ask Cloud Tasks whether it still has the task. If it does not, the task
has failed, or it is sent again, as the option LOST_TASKS says. The names of Cloud Tasks make this
safe: Cloud Tasks does not create a second task with the same name.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum

import attrs

from .backoff import Backoff
from .errors import IllegalTransitionError
from .names import CloudTaskName, cloud_task_id
from .payload import Json, Progress, TaskPayload
from .records import (
    UNKNOWN_WORKER,
    WORKER_LOST,
    Attempt,
    AttemptError,
    Claim,
    Redelivery,
    RelayStatus,
    State,
    TaskRecord,
)
from .retry_policy import DEFAULT_MAX_ATTEMPTS, Again, Over
from .scheduling import HORIZON, is_beyond_horizon

LONGEST_TRACEBACK = 10_000
"""Characters that are kept of a traceback."""

WITHIN_HORIZON = timedelta(days=7)
"""The relay sends a task that was due beyond the horizon so long before the horizon."""

GRACE_PERIOD = timedelta(seconds=15)
"""The relay leaves a new task to the process that enqueued it for ENQUEUE_TIMEOUT and this time."""

RELAY_LEASE = timedelta(seconds=30)
"""The time after which another relay takes over a batch."""

UNREADABLE_WAIT = timedelta(hours=1)
"""The time until the relay tries again to read an unreadable record."""

DELIVERY_GRACE = timedelta(hours=1)
"""The time from the due time of a task until the relay first looks it up."""

LOOK_UP_PAUSE = timedelta(minutes=5)
"""The time until the relay looks a task up again after an error."""

_NAMES_LOOKED_UP = 5  # names of the latest Cloud Tasks of a task; the first is looked up too
_LONGEST_LOOK = timedelta(days=7)
_REDELIVERY = Backoff(first=60.0, longest=3600.0)
_CREATION = Backoff(first=1.0, longest=300.0)
_LONGEST_ERROR = 1000  # characters
_MOST_UNKNOWN = 100  # earlier attempts; their number comes from a header, so it must be bounded


class Situation(Enum):
    """The situation of a record: its state, its attempts and its lease."""

    READY = "waits for its first attempt"
    RUNNING = "runs under a lease"
    LOST = "its lease is over"
    RETRYING = "waits for another attempt"
    ENDED = "nothing will run it again"


class Event(Enum):
    """What can happen to a record."""

    DELIVERED = "Cloud Tasks delivers the task"
    RENEWED = "its worker renews the lease"
    RETURNED = "the function returned"
    RAISED = "the function raised"
    SNOOZED = "the function asked to be called later"
    CANCELLED = "a person or the site cancels it"
    RUN_NOW = "a person wants it to run now"
    RELAY_DUE = "the relay looks at it"
    SENT = "Cloud Tasks accepted it"
    NOT_SENT = "Cloud Tasks did not accept it"
    FOUND = "Cloud Tasks still has it"
    GONE = "Cloud Tasks does not have it any more"
    REPLAYED = "a new task repeats it"


_READY, _RUNNING, _LOST = Situation.READY, Situation.RUNNING, Situation.LOST
_RETRYING, _ENDED = Situation.RETRYING, Situation.ENDED

TABLE: Mapping[Event, Mapping[Situation, frozenset[Situation]]] = {
    event: {situation: frozenset(to) for situation, to in zip(Situation, row, strict=True)}
    for event, row in {
        Event.DELIVERED: (
            {_READY, _RUNNING},
            {_RUNNING},
            {_RUNNING, _ENDED},
            {_RETRYING, _RUNNING},
            (),
        ),
        Event.RENEWED: ((), {_RUNNING}, {_RUNNING}, (), ()),
        Event.RETURNED: ((), {_ENDED}, {_ENDED}, (), ()),
        Event.RAISED: ((), {_RETRYING, _ENDED}, {_RETRYING, _ENDED}, (), ()),
        Event.SNOOZED: ((), {_READY, _RETRYING, _ENDED}, {_READY, _RETRYING, _ENDED}, (), ()),
        Event.CANCELLED: ({_ENDED}, {_RUNNING}, {_ENDED}, {_ENDED}, ()),
        Event.RUN_NOW: ({_READY}, (), {_LOST}, {_RETRYING}, ()),
        Event.RELAY_DUE: ({_READY}, {_RUNNING}, {_LOST, _ENDED}, {_RETRYING}, {_ENDED}),
        Event.SENT: ({_READY}, {_RUNNING}, {_LOST}, {_RETRYING}, ()),
        Event.NOT_SENT: ({_READY}, {_RUNNING}, {_LOST}, {_RETRYING}, ()),
        Event.FOUND: ({_READY}, (), (), {_RETRYING}, ()),
        Event.GONE: ({_READY, _ENDED}, (), (), {_RETRYING, _ENDED}, ()),
        Event.REPLAYED: ((), (), (), (), {_ENDED}),
    }.items()
}
"""The situations that an event may lead to, by the situation before it; none where it is refused.
The same as the table above."""


def situation(record: TaskRecord, now: datetime) -> Situation:
    """Return the situation of a record."""
    match record.state:
        case State.READY:
            return _RETRYING if record.attempts else _READY
        case State.RUNNING:
            return _RUNNING if record.lease_holds(now) else _LOST
        case State.SUCCESSFUL | State.FAILED | State.CANCELLED:
            return _ENDED


def is_refused(event: Event, record: TaskRecord, now: datetime) -> bool:
    """Return whether the event is refused and changes nothing."""
    return not TABLE[event][situation(record, now)]


def _demand(event: Event, record: TaskRecord, now: datetime) -> None:
    """Raise if the table refuses the event in the situation of the record.

    Raises:
        IllegalTransitionError: the event is refused.
    """
    where = situation(record, now)
    if not TABLE[event][where]:
        raise IllegalTransitionError(
            f"The task {record.task_id} is {where.name} ({where.value}). The event "
            f"{event.name} ({event.value}) is not possible now."
        )


# A new record.


def enqueued(
    payload: TaskPayload,
    *,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    run_after: datetime | None,
    now: datetime,
    timeout: float,
) -> TaskRecord:
    """Return the record of a new task. The process that enqueues it sends it next.

    If the task is due beyond the horizon of Cloud Tasks, the relay sends it later.

    Args:
        args, kwargs: the arguments as they come out of JSON.
        timeout: seconds that sending may take.
    """
    kept = attrs.evolve(payload, args=args, kwargs=kwargs, recorded=True)
    relay = RelayStatus(_to_be_sent_at(run_after, now=now, timeout=timeout))
    return TaskRecord(payload=kept, run_after=run_after, relay=relay)


def adopted(payload: TaskPayload, *, earlier_attempts: int, now: datetime) -> TaskRecord:
    """Return the record of a delivered task that was enqueued without a record.

    Args:
        earlier_attempts: the number of attempts before there was a record.
    """
    number = payload.progress.number
    return TaskRecord(
        payload=attrs.evolve(payload, recorded=True, progress=Progress()),
        attempts=(Attempt(UNKNOWN_WORKER),) * min(earlier_attempts, _MOST_UNKNOWN),
        # The next Cloud Tasks need new names.
        redelivery=Redelivery(count=number, first=number, sent=True),
        relay=RelayStatus(now + DELIVERY_GRACE),
    )


# A delivery.


@attrs.frozen
class Claimed:
    """The task may run, once `record` is stored."""

    record: TaskRecord


@attrs.frozen
class TurnedAway:
    """Another attempt runs, at least until `until`.

    `record` notes the delivery that is turned away. It can be the last delivery of the queue. If
    the running attempt fails then, the relay must send the task again.
    """

    record: TaskRecord
    until: datetime


@attrs.frozen
class Outdated:
    """A later Cloud Task brings the next attempt. It exists, or the relay sends it."""

    record: TaskRecord


@attrs.frozen
class Exhausted:
    """The worker of the last allowed attempt died. The task has failed once `record` is stored."""

    record: TaskRecord


@attrs.frozen
class Ended:
    """The task must not run. Store `record` if it differs."""

    record: TaskRecord


def claim(
    record: TaskRecord,
    *,
    now: datetime,
    token: str,
    worker: str,
    lease: timedelta,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    number: int | None = None,
    name: CloudTaskName | None = None,
) -> Claimed | TurnedAway | Outdated | Exhausted | Ended:
    """Decide whether a delivery may run its task.

    Args:
        token: a new token that no other claim has.
        worker: the name of the process.
        lease: the duration of the claim, unless it is renewed.
        max_attempts: the number of attempts after which the task has failed.
        number: the number of the delivered Cloud Task; None if it is not known.
        name: the name of the delivered Cloud Task; None if it is not known.
    """
    if is_refused(Event.DELIVERED, record, now):
        return Ended(record)
    # The answer to an earlier Cloud Task was lost. The next attempt has its own Cloud Task.
    if number is not None and number < record.redelivery.first:
        return Outdated(record)
    if record.lease_holds(now) and record.claim.expires_at:
        redelivery = attrs.evolve(record.redelivery, turned_away=True)
        return TurnedAway(attrs.evolve(record, redelivery=redelivery), record.claim.expires_at)
    if record.cancel_requested:
        return Ended(_withdrawn(record, now))
    given_up = _given_up_by_its_runner(record)
    if record.state is State.RUNNING and len(given_up.attempts) >= max_attempts:
        return Exhausted(_final(given_up, State.FAILED, now))
    claimed = attrs.evolve(
        given_up,
        state=State.RUNNING,
        finished_at=None,
        claim=Claim(token, now + lease),
        redelivery=attrs.evolve(
            record.redelivery,
            name=_name_of(record, name),
            at=None,
            sent=True,
            turned_away=False,
        ),
    )
    attempts = (*claimed.attempts, Attempt(worker, started_at=now))
    relay = RelayStatus(_lost_at(claimed))
    return Claimed(attrs.evolve(claimed, attempts=attempts, relay=relay))


def renew(record: TaskRecord, *, now: datetime, lease: timedelta) -> TaskRecord:
    """Return the record of a running task with a renewed lease."""
    _demand(Event.RENEWED, record, now)
    return attrs.evolve(record, claim=attrs.evolve(record.claim, expires_at=now + lease))


# The end of an attempt.


def succeed(record: TaskRecord, value: Json, *, now: datetime, note: str = "") -> TaskRecord:
    """Return the record of a task that returned `value`.

    Args:
        note: a remark about the attempt.
    """
    _demand(Event.RETURNED, record, now)
    attempts = _closed(record.attempts, None, finished_at=now, note=note)
    ended = attrs.evolve(record, attempts=attempts, return_value=value)
    return _final(ended, State.SUCCESSFUL, now)


def fail(
    record: TaskRecord,
    error: AttemptError,
    *,
    now: datetime,
    then: Again | Over,
    timeout: float = 0,
    note: str = "",
) -> TaskRecord:
    """Return the record of a task whose attempt failed.

    If somebody cancelled the task during the attempt, it ends as cancelled.

    Args:
        then: what follows. For a snooze, call `snooze`.
        timeout: seconds that sending the next Cloud Task may take.
        note: a remark about the attempt.
    """
    _demand(Event.RAISED, record, now)
    kept = _closed(record.attempts, _shortened(error), finished_at=now, note=note)
    failed = attrs.evolve(record, attempts=kept)
    if record.cancel_requested:
        return _final(failed, State.CANCELLED, now)
    if isinstance(then, Over):
        return _final(failed, State.FAILED, now)
    return _waiting(failed, then, now=now, timeout=timeout)


def snooze(record: TaskRecord, then: Again, *, now: datetime, timeout: float = 0) -> TaskRecord:
    """Return the record of a task that snoozes. The attempt is removed from it.

    If somebody cancelled the task during the attempt, it ends as cancelled.

    Args:
        timeout: seconds that sending the next Cloud Task may take.
    """
    _demand(Event.SNOOZED, record, now)
    record = attrs.evolve(record, attempts=record.attempts[:-1])
    if record.cancel_requested:
        return _final(record, State.CANCELLED, now)
    return _waiting(record, then, now=now, timeout=timeout)


# Control by people and by the site.


class CancelOutcome(Enum):
    """The result of cancelling a task."""

    CANCELLED = "cancelled"
    """It waited, and will not run."""

    REQUESTED = "requested"
    """It runs, and finds `context.cancelled` true; its failure will not be repeated."""

    TOO_LATE = "too late"
    """It has ended."""


@attrs.frozen
class Cancelling:
    """The decision about a cancellation. It holds once `record` is stored.

    If the outcome is CANCELLED, the Cloud Task can be deleted.
    """

    outcome: CancelOutcome
    record: TaskRecord


def withdraw(record: TaskRecord, *, now: datetime) -> Cancelling:
    """Decide what cancelling the task now does."""
    if is_refused(Event.CANCELLED, record, now):
        return Cancelling(CancelOutcome.TOO_LATE, record)
    if record.lease_holds(now):
        return Cancelling(CancelOutcome.REQUESTED, attrs.evolve(record, cancel_requested=True))
    return Cancelling(CancelOutcome.CANCELLED, _withdrawn(record, now))


def redeliver(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """Return the record of a task that gets another Cloud Task, due at once."""
    _demand(Event.RUN_NOW, record, now)
    redelivery = _next_redelivery(record)
    relay = attrs.evolve(record.relay, at=now)
    return attrs.evolve(record, run_after=None, redelivery=redelivery, relay=relay)


class ReplayRefusal(Enum):
    """The reason why a task is not replayed."""

    UNFINISHED = "It has not ended."
    REPLAYED = "It was replayed before."
    OVERTAKEN = "Its record was deleted or replayed at the same time."


@attrs.frozen
class Replay:
    """The decision to replay a task. It holds once one transaction has stored both records.

    Attributes:
        original: the record of the task that is repeated.
        copy: the record of the new task.
    """

    original: TaskRecord
    copy: TaskRecord


def replay(
    record: TaskRecord, copy: TaskRecord, *, now: datetime, again: bool = False
) -> Replay | ReplayRefusal:
    """Decide whether a task may be replayed.

    Args:
        copy: the record of the new task, as `enqueued` returns it.
        again: whether to replay a task that was replayed before.
    """
    if is_refused(Event.REPLAYED, record, now):
        return ReplayRefusal.UNFINISHED
    if record.replayed_as and not again:
        return ReplayRefusal.REPLAYED
    return Replay(
        attrs.evolve(record, replayed_as=copy.task_id),
        attrs.evolve(copy, replay_of=record.task_id),
    )


# The relay.


@attrs.frozen
class Send:
    """Store `record` if it differs. Then create its Cloud Task."""

    record: TaskRecord


@attrs.frozen
class Reschedule:
    """Nothing is to be sent. Store `record`, which says when to look again."""

    record: TaskRecord


@attrs.frozen
class LookUp:
    """Ask Cloud Tasks whether one of these Cloud Tasks exists. Then call `found` or `gone`."""

    record: TaskRecord
    cloud_task_ids: tuple[str, ...]


def look(record: TaskRecord, *, now: datetime) -> Send | Reschedule | LookUp:
    """Decide what the relay does with a record whose `relay.at` is reached."""
    if situation(record, now) is _ENDED:
        return Reschedule(_looked_at(record, None))
    if record.lease_holds(now):
        return Reschedule(_looked_at(record, _lost_at(record)))
    if record.cancel_requested:
        return Reschedule(_withdrawn(record, now))
    if not record.redelivery.sent:
        return Send(record)
    if record.state is State.READY and not record.redelivery.turned_away:
        count = record.redelivery.count
        numbers = {0, *range(max(0, count - _NAMES_LOOKED_UP + 1), count + 1)}
        ids = dict.fromkeys(cloud_task_id(record.task_id, n) for n in sorted(numbers))
        return LookUp(record, (*ids, *{record.cloud_task_id}.difference(ids)))
    # The worker died, or the attempt failed after another delivery was turned away, and no delivery
    # came since. The Cloud Task needs another name, because used names stay reserved.
    return Send(attrs.evolve(record, redelivery=_next_redelivery(record)))


def sent(record: TaskRecord, *, now: datetime, name: CloudTaskName | None = None) -> TaskRecord:
    """Return the record of a task that Cloud Tasks accepted.

    Args:
        name: the name of its Cloud Task; None if it is not known.
    """
    _demand(Event.SENT, record, now)
    if record.state is State.READY and not record.redelivery.turned_away:
        at = _to_be_looked_up_at(record, now)
    else:
        at = now + redelivery_delay(record.redelivery.resent)
    redelivery = attrs.evolve(record.redelivery, sent=True, name=_name_of(record, name))
    return attrs.evolve(record, redelivery=redelivery, relay=RelayStatus(at))


def found(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """Return the record of a waiting task that Cloud Tasks still has."""
    _demand(Event.FOUND, record, now)
    return attrs.evolve(record, relay=RelayStatus(_to_be_looked_up_at(record, now)))


def gone(
    record: TaskRecord,
    *,
    now: datetime,
    redelivered: bool,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
) -> TaskRecord:
    """Return the record of a waiting task that Cloud Tasks does not have any more.

    Args:
        redelivered: whether it gets another Cloud Task. Otherwise the task has failed.
        max_attempts: the number of attempts that the task may have.
    """
    _demand(Event.GONE, record, now)
    if redelivered:
        redelivery = _next_redelivery(record)
        return attrs.evolve(record, redelivery=redelivery, relay=RelayStatus(now))
    since = record.due_at or record.last_attempted_at or record.payload.enqueued_at
    due = f" It was due at {since:%Y-%m-%d %H:%M:%S} UTC." if since else ""
    lost = (
        f"Cloud Tasks does not have the task any more, after {len(record.attempts)} of "
        f"{max_attempts} attempts. Its queue gave it up, because the queue allows fewer attempts "
        "than the task or counts deliveries that were no attempts; or somebody deleted the Cloud "
        f"Task or purged the queue; or the Cloud Task was in the queue for 31 days.{due}\n"
    )
    return _final(attrs.evolve(record, lost=lost), State.FAILED, now)


def not_looked_up(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """Return the record of a task that the relay could not look up and tries again."""
    return _looked_at(record, now + LOOK_UP_PAUSE)


def back_off(record: TaskRecord, error: str, *, now: datetime) -> TaskRecord:
    """Return the record of a task that Cloud Tasks did not accept, for the reason `error`."""
    _demand(Event.NOT_SENT, record, now)
    at, failures = now + retry_delay(record), record.relay.failures + 1
    return attrs.evolve(record, relay=RelayStatus(at, failures, storable(error)))


def release(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """Return the record of a task that a relay took and did not send: it is due again."""
    return _looked_at(record, now)


def retry_delay(record: TaskRecord) -> timedelta:
    """Return the wait after another failure to send a task or to handle its record."""
    return timedelta(seconds=_CREATION.seconds(record.relay.failures + 1))


def redelivery_delay(resent: int) -> timedelta:
    """Return the wait before the relay sends an attempt for the `resent`-th time."""
    return timedelta(seconds=_REDELIVERY.seconds(resent)) if resent else timedelta()


def storable(error: str) -> str:
    """Return a text that every database can store: short, without NUL and surrogates."""
    plain = error[:_LONGEST_ERROR].replace("\0", "\\x00")
    return plain.encode("utf-8", "backslashreplace").decode()


# Parts that several transitions use.


def _final(record: TaskRecord, state: State, now: datetime) -> TaskRecord:
    """Return the record in a final state."""
    return attrs.evolve(
        record,
        state=state,
        finished_at=now,
        claim=attrs.evolve(record.claim, expires_at=None),
        relay=attrs.evolve(record.relay, at=None),
    )


def _withdrawn(record: TaskRecord, now: datetime) -> TaskRecord:
    """Return the record of a task that is cancelled and does not run."""
    return _final(_given_up_by_its_runner(record), State.CANCELLED, now)


def _waiting(record: TaskRecord, then: Again, *, now: datetime, timeout: float) -> TaskRecord:
    """Return the record of a task that waits for another attempt."""
    waiting = attrs.evolve(
        record, state=State.READY, claim=attrs.evolve(record.claim, expires_at=None)
    )
    if not then.by_queue:
        number = record.redelivery.count + 1
        redelivery = attrs.evolve(
            record.redelivery, count=number, first=number, at=then.at, sent=False, turned_away=False
        )
        relay_at = _to_be_sent_at(then.at, now=now, timeout=timeout)
        return attrs.evolve(waiting, redelivery=redelivery, relay=RelayStatus(relay_at))
    # The delivery that was turned away can be the last one of the queue. If it is not, the next
    # delivery comes before the relay, and its claim resets this.
    if record.redelivery.turned_away:
        relay_at = now + redelivery_delay(record.redelivery.resent + 1)
    else:
        relay_at = (then.at or now) + DELIVERY_GRACE
    return attrs.evolve(waiting, relay=attrs.evolve(record.relay, at=relay_at))


def _to_be_sent_at(due: datetime | None, *, now: datetime, timeout: float) -> datetime:
    """Return when the relay sends a task, unless this process has sent it before."""
    if due is not None and is_beyond_horizon(due, now=now):
        return due - HORIZON + WITHIN_HORIZON
    return now + timedelta(seconds=timeout) + GRACE_PERIOD


def _to_be_looked_up_at(record: TaskRecord, now: datetime) -> datetime:
    """Return when to look a task up: an hour after it is due, then at growing intervals."""
    known = (record.due_at, record.last_attempted_at, record.payload.enqueued_at)
    due = max(filter(None, known), default=now)
    return max(now, due) + min(max(DELIVERY_GRACE, now - due), _LONGEST_LOOK)


def _given_up_by_its_runner(record: TaskRecord) -> TaskRecord:
    """Return the record with an error for a running attempt, because its worker is lost."""
    if record.state is not State.RUNNING:
        return record
    attempt = record.attempts[-1] if record.attempts else Attempt(UNKNOWN_WORKER)
    error = AttemptError(
        WORKER_LOST,
        f"The worker {attempt.worker} began at {attempt.started_at}. Its lease ended at "
        f"{record.claim.expires_at}, and it had reported nothing: it was killed, or lost its "
        "connection.\n",
    )
    return attrs.evolve(record, attempts=_closed(record.attempts, error, finished_at=None))


def _closed(
    attempts: tuple[Attempt, ...],
    error: AttemptError | None,
    *,
    finished_at: datetime | None,
    note: str = "",
) -> tuple[Attempt, ...]:
    """Return the attempts with an end for the latest one."""
    latest = attempts[-1] if attempts else Attempt(UNKNOWN_WORKER)
    ended = attrs.evolve(latest, finished_at=finished_at, error=error, note=note)
    return (*attempts[:-1], ended)


def _lost_at(record: TaskRecord) -> datetime | None:
    """Return when the relay sends a running task again if its worker has died.

    That is the end of the lease, and later each time for a task whose workers die repeatedly.
    """
    expires_at = record.claim.expires_at
    return None if expires_at is None else expires_at + redelivery_delay(record.redelivery.resent)


def _next_redelivery(record: TaskRecord) -> Redelivery:
    return attrs.evolve(record.redelivery, count=record.redelivery.count + 1, at=None, sent=False)


def _name_of(record: TaskRecord, name: CloudTaskName | None) -> str:
    """Return the text of a name, with the project and the location of the known name."""
    known = record.cloud_task_name
    if name and known and not name.project:
        name = attrs.evolve(name, project=known.project, location=known.location)
    return str(name or known or "")


def _looked_at(record: TaskRecord, at: datetime | None) -> TaskRecord:
    return attrs.evolve(record, relay=attrs.evolve(record.relay, at=at))


def _shortened(error: AttemptError) -> AttemptError:
    """Shorten a long traceback to its beginning and its end."""
    text = error.traceback
    if len(text) <= LONGEST_TRACEBACK:
        return error
    half = LONGEST_TRACEBACK // 2
    left_out = len(text) - 2 * half
    return attrs.evolve(
        error, traceback=f"{text[:half]}\n... {left_out:,} characters ...\n{text[-half:]}"
    )
