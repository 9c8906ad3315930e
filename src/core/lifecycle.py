"""Every transition of a recorded task.

Theory of operation. A task waits, runs under a lease, and ends. Who wants to run it claims it: the
claim puts a fresh token on the record, and from then on only the holder of that token can renew the
lease or write how the attempt ended. A lease that is over means a runner that died, or was cut off;
the next delivery takes over.

A store carries out each transition as one comparison and swap: it goes through only where the
record's fence (`records.FENCE`) still is what the decision was made on. So of two that decide at
once one wins, and the other decides again.

One invariant holds after every transition: a record that is not final has a `relay.at`, the time
when the relay looks at it next, whatever has become of its deliveries meanwhile. So a task that is
not over, and that nobody runs, is never forgotten.

A record is in one of five situations, and thirteen events can happen to it. The table tells to
which situations an event leads; "-" means that the event is refused, and changes nothing.

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

A delivery of a Cloud Task that a later one has superseded changes nothing. While an attempt runs, a
delivery is turned away, and a cancellation is a request. A task that was asked to stop, and whose
runner is lost or whose attempt fails, ends as cancelled.

A replay is a new task with a record of its own. The record of the task that it repeats stays as it
is, but for the id of the new one.

When the relay looks:

| the task | the relay looks | and then |
|---|---|---|
| is recorded, not sent | when the process that enqueued it has had its time | sends it |
| is sent, and nobody has come | an hour after it was due, later each time | looks it up |
| runs | at the end of the lease | looks later, or sends another if the runner is lost |
| was sent again for a lost runner | a minute later, later each time | sends another |
| failed, and a delivery was turned away | a minute later, later each time | sends another |
| failed, and its queue repeats it | an hour after its next attempt is due | looks it up |
| failed, and the endpoint repeats it | when that process has had its time | sends it |

To look a task up is to ask Cloud Tasks for it. A task that Cloud Tasks does not have any more has
failed, or is sent again, as LOST_TASKS says. Names keep this safe: a Cloud Task that still exists
is not made twice.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum

import attrs

from .backoff import Backoff
from .errors import IllegalTransitionError
from .names import cloud_task_id
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
"""Characters that are kept of one traceback: a record is written whole at each attempt."""

WITHIN_HORIZON = timedelta(days=7)
"""How long before it must, the relay sends a task that was due beyond Cloud Tasks' horizon."""

GRACE_PERIOD = timedelta(seconds=15)
"""How much longer than ENQUEUE_TIMEOUT the process that enqueued a task has it to itself."""

RELAY_LEASE = timedelta(seconds=30)
"""How long a relay has a batch to itself before another one takes it for lost."""

UNREADABLE_WAIT = timedelta(hours=1)
"""How long the relay leaves a record alone that it cannot read."""

NAME_KEPT = timedelta(hours=25)
"""How long after its end a Cloud Task's name may stay taken (24 hours), and an hour more. Before
that, sending a task again by its name tells nothing."""

DELIVERY_GRACE = timedelta(hours=1)
"""How long after a task was due the relay first looks whether Cloud Tasks still has it."""

LOOK_UP_PAUSE = timedelta(minutes=5)
"""How long the relay waits before it looks a task up again, where that failed."""

_NAMES_LOOKED_UP = 5  # of the latest Cloud Tasks of one task, and its first
_LONGEST_LOOK = timedelta(days=7)
_REDELIVERY = Backoff(first=60.0, longest=3600.0)
_CREATION = Backoff(first=1.0, longest=300.0)
_LONGEST_ERROR = 1000  # characters
_MOST_UNKNOWN = 100  # earlier attempts: a header tells their number, and may say anything


class Situation(Enum):
    """Where a record stands, by its state and its lease."""

    READY = "waits for its first attempt"
    RUNNING = "runs under a lease"
    LOST = "its runner's lease is over"
    RETRYING = "waits for another attempt"
    ENDED = "nothing will run it again"


class Event(Enum):
    """What can happen to a record."""

    DELIVERED = "Cloud Tasks delivers the task"
    RENEWED = "its runner renews the lease"
    RETURNED = "the function returned"
    RAISED = "the function raised"
    SNOOZED = "the function asked to be called later"
    CANCELLED = "somebody cancels it"
    RUN_NOW = "somebody wants it to run now"
    RELAY_DUE = "the time of the relay has come"
    SENT = "Cloud Tasks took it"
    NOT_SENT = "Cloud Tasks did not take it"
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
    """Where a record stands."""
    match record.state:
        case State.READY:
            return _RETRYING if record.attempts else _READY
        case State.RUNNING:
            return _RUNNING if record.lease_holds(now) else _LOST
        case State.SUCCESSFUL | State.FAILED | State.CANCELLED:
            return _ENDED


def is_refused(event: Event, record: TaskRecord, now: datetime) -> bool:
    """Whether the event changes nothing."""
    return not TABLE[event][situation(record, now)]


def _demand(event: Event, record: TaskRecord, now: datetime) -> None:
    """For events that only the holder of a claim, or of a decision, brings about.

    Raises:
        IllegalTransitionError: the event is refused.
    """
    where = situation(record, now)
    if not TABLE[event][where]:
        raise IllegalTransitionError(
            f"The task {record.task_id} is {where.name} ({where.value}). The event "
            f"{event.name} ({event.value}) is not possible now."
        )


# A record comes into being.


def enqueued(
    payload: TaskPayload,
    *,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    run_after: datetime | None,
    now: datetime,
    timeout: float,
) -> TaskRecord:
    """The record of a task that the process which enqueues it is about to send.

    One that is due beyond Cloud Tasks' horizon is the relay's, when its time has come nearer.

    Args:
        args, kwargs: what JSON made of the arguments.
        timeout: seconds that it may take to send it.
    """
    kept = attrs.evolve(payload, args=args, kwargs=kwargs, recorded=True)
    relay = RelayStatus(_to_be_sent_at(run_after, now=now, timeout=timeout))
    return TaskRecord(payload=kept, run_after=run_after, relay=relay)


def adopted(payload: TaskPayload, *, earlier_attempts: int, now: datetime) -> TaskRecord:
    """The record of a task that was delivered, and was enqueued without one.

    Args:
        earlier_attempts: made before there was a record.
    """
    return TaskRecord(
        payload=attrs.evolve(payload, recorded=True, progress=Progress()),
        attempts=(Attempt(UNKNOWN_WORKER),) * min(earlier_attempts, _MOST_UNKNOWN),
        # The names that the next Cloud Tasks get must be new ones.
        redelivery=Redelivery(count=payload.progress.number, sent=True),
        relay=RelayStatus(now + DELIVERY_GRACE),
    )


# A delivery wants to run it.


@attrs.frozen
class Claimed:
    """The task may run, once `record` is stored."""

    record: TaskRecord


@attrs.frozen
class TurnedAway:
    """Somebody runs the task until `until` at least.

    `record` remembers it: the delivery that is sent away now may have been the queue's last, and
    if the attempt that runs fails, the task must not be lost.
    """

    record: TaskRecord
    until: datetime


@attrs.frozen
class Superseded:
    """The endpoint has made, or the relay will make, a later Cloud Task for the next attempt."""

    record: TaskRecord


@attrs.frozen
class Exhausted:
    """The worker of the last attempt died, so that the task has failed, once `record` is stored."""

    record: TaskRecord


@attrs.frozen
class Ended:
    """The task must not run (again). `record` is to be stored if it differs."""

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
) -> Claimed | TurnedAway | Superseded | Exhausted | Ended:
    """Decide whether a delivery may run its task.

    Args:
        token: fresh, and nobody else's.
        worker: names who runs it.
        lease: for how long, unless it is renewed.
        max_attempts: that the task may have.
        number: of the Cloud Task that is delivered; None if it is not known.
    """
    if is_refused(Event.DELIVERED, record, now):
        return Ended(record)
    # The answer to the Cloud Task before was lost: its next attempt has a time of its own.
    waits = record.state is State.READY and record.redelivery.at is not None
    if waits and number is not None and number < record.redelivery.count:
        return Superseded(record)
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
        redelivery=attrs.evolve(record.redelivery, at=None, sent=True, turned_away=False),
    )
    attempts = (*claimed.attempts, Attempt(worker, started_at=now))
    relay = RelayStatus(_lost_at(claimed))
    return Claimed(attrs.evolve(claimed, attempts=attempts, relay=relay))


def renew(record: TaskRecord, *, now: datetime, lease: timedelta) -> TaskRecord:
    """The record of a task that still runs."""
    _demand(Event.RENEWED, record, now)
    return attrs.evolve(record, claim=attrs.evolve(record.claim, expires_at=now + lease))


# An attempt ends.


def succeed(record: TaskRecord, value: Json, *, now: datetime, note: str = "") -> TaskRecord:
    """The record of a task that returned `value`.

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
    """The record of a task whose attempt failed; one that was to stop is cancelled by that.

    Args:
        then: what follows. Of a snooze, see `snooze`.
        timeout: seconds that it may take to send the next Cloud Task.
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
    """The record of a task that asked to be called later: this was no attempt.

    One that was to stop is cancelled by that.

    Args:
        timeout: seconds that it may take to send the next Cloud Task.
    """
    _demand(Event.SNOOZED, record, now)
    record = attrs.evolve(record, attempts=record.attempts[:-1])
    if record.cancel_requested:
        return _final(record, State.CANCELLED, now)
    return _waiting(record, then, now=now, timeout=timeout)


# People take hold of it.


class CancelOutcome(Enum):
    """What cancelling a task came to."""

    CANCELLED = "cancelled"
    """It waited, and will not run."""

    REQUESTED = "requested"
    """It runs, and finds `context.cancelled` true; its failure will not be repeated."""

    TOO_LATE = "too late"
    """It has ended."""


@attrs.frozen
class Cancelling:
    """What cancelling a task means, once `record` is stored. CANCELLED: its Cloud Task can go."""

    outcome: CancelOutcome
    record: TaskRecord


def withdraw(record: TaskRecord, *, now: datetime) -> Cancelling:
    """Decide what cancelling a task means now."""
    if is_refused(Event.CANCELLED, record, now):
        return Cancelling(CancelOutcome.TOO_LATE, record)
    if record.lease_holds(now):
        return Cancelling(CancelOutcome.REQUESTED, attrs.evolve(record, cancel_requested=True))
    return Cancelling(CancelOutcome.CANCELLED, _withdrawn(record, now))


def redeliver(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that is to get another Cloud Task, due at once."""
    _demand(Event.RUN_NOW, record, now)
    redelivery = _next_redelivery(record)
    relay = attrs.evolve(record.relay, at=now)
    return attrs.evolve(record, run_after=None, redelivery=redelivery, relay=relay)


class ReplayRefusal(Enum):
    """Why a task is not replayed."""

    UNFINISHED = "It has not ended."
    REPLAYED = "It was replayed before."
    OVERTAKEN = "Its record was deleted or replayed at the same time."


@attrs.frozen
class Replay:
    """What replaying a task means, once both records are stored in one transaction.

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
        copy: the record of the new task, as `enqueued` makes it.
        again: also a task that was replayed before.
    """
    if is_refused(Event.REPLAYED, record, now):
        return ReplayRefusal.UNFINISHED
    if record.replayed_as and not again:
        return ReplayRefusal.REPLAYED
    return Replay(
        attrs.evolve(record, replayed_as=copy.task_id),
        attrs.evolve(copy, replay_of=record.task_id),
    )


# The relay looks at it.


@attrs.frozen
class Send:
    """Make a Cloud Task for `record`, storing it first if it differs."""

    record: TaskRecord


@attrs.frozen
class Reschedule:
    """Nothing to send; store `record`, which says when to look again, if ever."""

    record: TaskRecord


@attrs.frozen
class LookUp:
    """Ask Cloud Tasks whether it has one of these Cloud Tasks; then `found` or `gone`."""

    record: TaskRecord
    cloud_task_ids: tuple[str, ...]


def look(record: TaskRecord, *, now: datetime) -> Send | Reschedule | LookUp:
    """Decide about a record whose `relay.at` has come."""
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
        return LookUp(record, tuple(cloud_task_id(record.task_id, n) for n in sorted(numbers)))
    # Its runner died, or its attempt failed while another delivery was turned away, and nobody has
    # come since. Another name, as the earlier ones stay taken.
    return Send(attrs.evolve(record, redelivery=_next_redelivery(record)))


def sent(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that Cloud Tasks has; the relay looks whether it ever comes."""
    _demand(Event.SENT, record, now)
    if record.state is State.READY and not record.redelivery.turned_away:
        at = _to_be_looked_up_at(record, now)
    else:
        at = now + redelivery_delay(record.redelivery.count)
    redelivery = attrs.evolve(record.redelivery, sent=True)
    return attrs.evolve(record, redelivery=redelivery, relay=RelayStatus(at))


def found(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that waits, and that Cloud Tasks still has."""
    _demand(Event.FOUND, record, now)
    return attrs.evolve(record, relay=RelayStatus(_to_be_looked_up_at(record, now)))


def gone(record: TaskRecord, *, now: datetime, redelivered: bool) -> TaskRecord:
    """The record of a task that waits, and that Cloud Tasks does not have any more.

    Args:
        redelivered: whether another Cloud Task is made for it; otherwise it has failed.
    """
    _demand(Event.GONE, record, now)
    if redelivered:
        redelivery = _next_redelivery(record)
        return attrs.evolve(record, redelivery=redelivery, relay=RelayStatus(now))
    since = record.due_at or record.last_attempted_at or record.payload.enqueued_at
    due = f" It was due at {since:%Y-%m-%d %H:%M:%S} UTC." if since else ""
    lost = (
        f"Cloud Tasks does not have the task any more, after {len(record.attempts)} attempts. Its "
        "queue gave it up, or somebody deleted it or purged the queue, or it was in the queue for "
        f"31 days.{due}\n"
    )
    return _final(attrs.evolve(record, lost=lost), State.FAILED, now)


def not_looked_up(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that could not be looked up: the relay tries again."""
    return _looked_at(record, now + LOOK_UP_PAUSE)


def back_off(record: TaskRecord, error: str, *, now: datetime) -> TaskRecord:
    """The record of a task that Cloud Tasks did not take, for the reason `error`."""
    _demand(Event.NOT_SENT, record, now)
    at, failures = now + retry_delay(record), record.relay.failures + 1
    return attrs.evolve(record, relay=RelayStatus(at, failures, storable(error)))


def release(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that a relay has leased and did not try: it is the next one's."""
    return _looked_at(record, now)


def retry_delay(record: TaskRecord) -> timedelta:
    """How long to wait after one more failure to send a task, or to handle its record."""
    return timedelta(seconds=_CREATION.seconds(record.relay.failures + 1))


def redelivery_delay(count: int) -> timedelta:
    """How long to leave a task to its queue before the Cloud Task of that number is made."""
    return timedelta(seconds=_REDELIVERY.seconds(count)) if count else timedelta()


def storable(error: str) -> str:
    """A reason as every database can keep it: of bounded length, without NUL and surrogates."""
    plain = error[:_LONGEST_ERROR].replace("\0", "\\x00")
    return plain.encode("utf-8", "backslashreplace").decode()


# The parts that transitions share.


def _final(record: TaskRecord, state: State, now: datetime) -> TaskRecord:
    """The record of a task that nothing will run again."""
    return attrs.evolve(
        record,
        state=state,
        finished_at=now,
        claim=attrs.evolve(record.claim, expires_at=None),
        relay=attrs.evolve(record.relay, at=None),
    )


def _withdrawn(record: TaskRecord, now: datetime) -> TaskRecord:
    """The record of a task that nobody runs, and that is cancelled now."""
    return _final(_given_up_by_its_runner(record), State.CANCELLED, now)


def _waiting(record: TaskRecord, then: Again, *, now: datetime, timeout: float) -> TaskRecord:
    """The record of a task whose attempt is over, and which will be attempted again."""
    waiting = attrs.evolve(
        record, state=State.READY, claim=attrs.evolve(record.claim, expires_at=None)
    )
    if not then.by_queue:
        redelivery = Redelivery(count=record.redelivery.count + 1, at=then.at)
        relay_at = _to_be_sent_at(then.at, now=now, timeout=timeout)
        return attrs.evolve(waiting, redelivery=redelivery, relay=RelayStatus(relay_at))
    # A delivery that was turned away meanwhile may have been the queue's last. If it was not, the
    # queue comes first: another claim takes this back.
    if record.redelivery.turned_away:
        relay_at = now + redelivery_delay(record.redelivery.count + 1)
    else:
        relay_at = (then.at or now) + DELIVERY_GRACE
    return attrs.evolve(waiting, relay=attrs.evolve(record.relay, at=relay_at))


def _to_be_sent_at(due: datetime | None, *, now: datetime, timeout: float) -> datetime:
    """When the relay sends a task that this process is about to send, or that is due too late."""
    if due is not None and is_beyond_horizon(due, now=now):
        return due - HORIZON + WITHIN_HORIZON
    return now + timedelta(seconds=timeout) + GRACE_PERIOD


def _to_be_looked_up_at(record: TaskRecord, now: datetime) -> datetime:
    """An hour after the task is due; later, after as long as it is overdue, a week at most."""
    known = (record.due_at, record.last_attempted_at, record.payload.enqueued_at)
    due = max(filter(None, known), default=now)
    return max(now, due) + min(max(DELIVERY_GRACE, now - due), _LONGEST_LOOK)


def _given_up_by_its_runner(record: TaskRecord) -> TaskRecord:
    """The record without an attempt that is under way: its runner is lost."""
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
    """The attempts, the latest of which has ended."""
    latest = attempts[-1] if attempts else Attempt(UNKNOWN_WORKER)
    ended = attrs.evolve(latest, finished_at=finished_at, error=error, note=note)
    return (*attempts[:-1], ended)


def _lost_at(record: TaskRecord) -> datetime | None:
    """When the relay is to have the task redelivered, should its runner have died by then.

    At the end of the lease; later and later for a task that kills one runner after another.
    """
    expires_at = record.claim.expires_at
    return None if expires_at is None else expires_at + redelivery_delay(record.redelivery.count)


def _next_redelivery(record: TaskRecord) -> Redelivery:
    return attrs.evolve(record.redelivery, count=record.redelivery.count + 1, at=None, sent=False)


def _looked_at(record: TaskRecord, at: datetime | None) -> TaskRecord:
    return attrs.evolve(record, relay=attrs.evolve(record.relay, at=at))


def _shortened(error: AttemptError) -> AttemptError:
    """Beginning and end of a long traceback: where it came from, and what it was."""
    text = error.traceback
    if len(text) <= LONGEST_TRACEBACK:
        return error
    half = LONGEST_TRACEBACK // 2
    left_out = len(text) - 2 * half
    return attrs.evolve(
        error, traceback=f"{text[:half]}\n... {left_out:,} characters ...\n{text[-half:]}"
    )
