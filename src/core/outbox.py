"""The outbox: records of tasks that Cloud Tasks does not have yet, or needs to get again.

`TaskRecord.relay_at` says when the relay is to look at a task. It is set when the task is
recorded, a little ahead, so that the relay does not compete with the process that enqueued it, and
cleared when Cloud Tasks has it. A claim sets it to the end of the lease, for the case that the
runner dies, and the end of the attempt clears it; unless it failed, and a delivery was sent away
meanwhile, which may have been the queue's last.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from .payload import TaskPayload
from .records import State, TaskRecord
from .retries import RetryPolicy
from .scheduling import HORIZON, is_beyond_horizon

WITHIN_HORIZON = timedelta(days=7)
"""How long before it must, the relay sends a task that was due beyond Cloud Tasks' horizon."""

HEAD_START = timedelta(seconds=15)
"""How much longer than ENQUEUE_TIMEOUT the process that enqueued a task has it to itself."""

IN_HAND = timedelta(seconds=30)
"""How long a relay has a batch to itself before another one takes it for lost."""

SILENCE = timedelta(seconds=5)
"""For how long, after Cloud Tasks did not answer, new tasks are left to the relay untried."""

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
    if record.state is State.READY:
        return Send(record)
    # Its runner died, or its attempt failed while another delivery was sent away, and nobody has
    # come since. Another name, as the first one is taken; for one attempt the same again.
    if record.dispatch and record.dispatched_for == record.token:
        return Send(record)
    return Send(_renumbered(record))


def sent(record: TaskRecord) -> TaskRecord:
    """The record of a task that Cloud Tasks has."""
    return attrs.evolve(record, relay_at=None, relay_failures=0, relay_error="")


def put_off(record: TaskRecord, error: str, *, now: datetime) -> TaskRecord:
    """The record of a task that Cloud Tasks did not take, for the reason `error`."""
    failures = record.relay_failures + 1
    return attrs.evolve(
        record,
        relay_at=now + timedelta(seconds=_BACKOFF.backoff(failures)),
        relay_failures=failures,
        relay_error=error[:_LONGEST_ERROR],
    )


def anew(record: TaskRecord, *, now: datetime) -> TaskRecord:
    """The record of a task that is to get another Cloud Task, due at once."""
    return attrs.evolve(_renumbered(record), run_after=None, relay_at=now)


def _renumbered(record: TaskRecord) -> TaskRecord:
    return attrs.evolve(record, dispatch=record.dispatch + 1, dispatched_for=record.token)


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
