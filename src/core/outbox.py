"""The outbox: records of tasks that Cloud Tasks does not have yet, or may have lost.

`TaskRecord.relay_at` says when the relay looks at a task, until the task is final:

| the task | the relay looks | and then |
|---|---|---|
| is recorded, not sent | when the process that enqueued it has had its time | sends it |
| is sent, and nobody has come | a day after it was due, later each time | sends it again by name |
| runs | at the end of the lease | looks later, or sends another if the runner is lost |
| was sent again for a lost runner | a minute later, later each time | sends another |
| failed, and a delivery was turned away | a minute later, later each time | sends another |
| failed otherwise | after 31 days | makes the failure final: no queue repeats it any more |

Names keep this safe: what Cloud Tasks still has is not made twice, and what it lost is made again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from .payload import TaskPayload
from .records import LONGEST_LIFE, State, TaskRecord, again_after, withdrawn
from .retries import RetryPolicy
from .scheduling import HORIZON, is_beyond_horizon

WITHIN_HORIZON = timedelta(days=7)
"""How long before it must, the relay sends a task that was due beyond Cloud Tasks' horizon."""

HEAD_START = timedelta(seconds=15)
"""How much longer than ENQUEUE_TIMEOUT the process that enqueued a task has it to itself."""

IN_HAND = timedelta(seconds=30)
"""How long a relay has a batch to itself before another one takes it for lost."""

SET_ASIDE = timedelta(hours=1)
"""How long a record that cannot be read is left alone before the relay tries it again."""

NAME_KEPT = timedelta(hours=25)
"""How long after its end a Cloud Task's name may stay taken (24 hours), and an hour more. Before
that, sending a task again by its name tells nothing."""

_LONGEST_LOOK = timedelta(days=7)
_BACKOFF = RetryPolicy(min_backoff=1.0, max_backoff=300.0, max_doublings=16)
_LONGEST_ERROR = 1000  # characters


@attrs.frozen
class Send:
    """Make a Cloud Task for `record`, storing it first if it differs."""

    record: TaskRecord


@attrs.frozen
class Look:
    """Nothing to send; store `record`, which says when to look again, if ever."""

    record: TaskRecord


def relay(record: TaskRecord, *, now: datetime) -> Send | Look:
    """Decide about a record that is due."""
    if record.final:
        return Look(attrs.evolve(record, relay_at=None))
    if record.lease_holds(now):
        return Look(attrs.evolve(record, relay_at=record.lost_at))
    if record.cancel_requested:
        return Look(withdrawn(record, now))
    if not record.sent or record.state is State.READY:
        return Send(record)
    if record.state is State.FAILED and not record.turned_away:
        over = (record.finished_at or now) + LONGEST_LIFE
        if now < over:
            return Look(attrs.evolve(record, relay_at=over))
        return Look(attrs.evolve(record, final=True, relay_at=None))
    # Its runner died, or its attempt failed while another delivery was sent away, and nobody has
    # come since. Another name, as the earlier ones stay taken.
    return Send(_renumbered(record))


def sent(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that Cloud Tasks has; the relay looks whether it ever comes."""
    if record.state is State.READY:
        due = max(filter(None, (record.run_after, record.enqueued_at)), default=now)
        wait = min(max(NAME_KEPT, now - due), _LONGEST_LOOK)
        look = max(now, due) + wait
    else:
        look = now + again_after(record.dispatch)
    return attrs.evolve(record, relay_at=look, sent=True, relay_failures=0, relay_error="")


def put_off(record: TaskRecord, error: str, *, now: datetime) -> TaskRecord:
    """The record of a task that Cloud Tasks did not take, for the reason `error`."""
    return attrs.evolve(
        record,
        relay_at=now + patience(record),
        relay_failures=record.relay_failures + 1,
        relay_error=storable(error),
    )


def patience(record: TaskRecord) -> timedelta:
    """How long to wait after one more failure to send a task, or to handle its record."""
    return timedelta(seconds=_BACKOFF.backoff(record.relay_failures + 1))


def storable(error: str) -> str:
    """A reason as every database can keep it: of bounded length, without NUL and surrogates."""
    plain = error[:_LONGEST_ERROR].replace("\0", "\\x00")
    return plain.encode("utf-8", "backslashreplace").decode()


def anew(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that is to get another Cloud Task, due at once."""
    fresh = attrs.evolve(_renumbered(record), run_after=None, relay_at=now)
    # The relay sees to it that a failed task is delivered that somebody wants to run.
    return attrs.evolve(fresh, turned_away=True) if record.state is State.FAILED else fresh


def _renumbered(record: TaskRecord) -> TaskRecord:
    return attrs.evolve(record, dispatch=record.dispatch + 1, sent=False)


def may_run_now(record: TaskRecord, *, now: datetime) -> bool:
    """Whether a task waits, and could be delivered at once."""
    return not record.final and not record.lease_holds(now)


def left_alone(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that a relay took in hand and did not try: it is the next one's."""
    return attrs.evolve(record, relay_at=now)


def recorded(
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
    relay_at = now + timedelta(seconds=timeout) + HEAD_START
    if run_after is not None and is_beyond_horizon(run_after, now=now):
        relay_at = run_after - HORIZON + WITHIN_HORIZON
    return TaskRecord.of(payload, args=args, kwargs=kwargs, run_after=run_after, relay_at=relay_at)


def adopted(payload: TaskPayload, *, earlier_attempts: int, now: datetime) -> TaskRecord:
    """The record of a task that was delivered, and was enqueued without one.

    Args:
        earlier_attempts: made before there was a record.
    """
    return TaskRecord.of(
        payload,
        args=payload.args,
        kwargs=payload.kwargs,
        relay_at=now + NAME_KEPT,
        sent=True,
        earlier_attempts=earlier_attempts,
    )
