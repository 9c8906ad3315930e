"""What becomes of a record: claims, leases, ends, cancelling, the relay's decisions."""

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from django_tasks_cloud_tasks.core import outbox
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import (
    LONGEST_LIFE,
    LONGEST_TRACEBACK,
    TASK_CANCELLED,
    WORKER_LOST,
    AttemptError,
    Claimed,
    Closed,
    Requested,
    State,
    Taken,
    TaskRecord,
    TooLate,
    Withdrawn,
    cancel,
    claim,
    failed,
    renewed,
    succeeded,
)
from django_tasks_cloud_tasks.core.retries import RetryPolicy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEASE = timedelta(seconds=60)
LATER = NOW + LEASE
ERROR = AttemptError("builtins.ValueError", "Traceback: no")
PAYLOAD = TaskPayload(task_id="one", task_path="shop.tasks.add", args=[1], kwargs={"b": 2})
WAITING = TaskRecord.of(PAYLOAD, args=[1], kwargs={"b": 2}, relay_at=NOW)


def run(record: TaskRecord, *, now: datetime = NOW, token: str = "t1") -> TaskRecord:
    claimed = claim(record, now=now, token=token, worker="w1", lease=LEASE)
    assert isinstance(claimed, Claimed)
    return claimed.record


def test_a_waiting_task_is_claimed() -> None:
    record = run(attrs.evolve(WAITING, relay_at=NOW, relay_failures=2, relay_error="no"))
    assert record.relay_at == LATER, "should the runner die"
    assert record == attrs.evolve(
        WAITING,
        relay_at=LATER,
        state=State.RUNNING,
        started_at=NOW,
        last_attempted_at=NOW,
        worker_ids=("w1",),
        token="t1",
        lease_expires_at=LATER,
        sent=True,
    )


def test_a_failed_attempt_is_followed_by_another() -> None:
    first = failed(run(WAITING), ERROR, now=NOW)
    assert (first.state, first.final, first.finished_at) == (State.FAILED, False, NOW)
    second = run(first, now=LATER, token="t2")
    assert (second.started_at, second.last_attempted_at) == (NOW, LATER)
    assert (second.finished_at, second.errors) == (None, (ERROR,))
    assert second.worker_ids == ("w1", "w1")


def test_a_running_task_is_not_claimed_and_that_is_remembered() -> None:
    running = run(WAITING)
    almost = LATER - timedelta(microseconds=1)
    decision = claim(running, now=almost, token="t2", worker="w2", lease=LEASE)
    assert decision == Taken(attrs.evolve(running, turned_away=True), LATER)
    assert run(failed(decision.record, ERROR, now=NOW)).turned_away is False


def test_a_failure_after_a_delivery_was_turned_away_is_made_up_for() -> None:
    """What was sent away may have been the queue's last."""
    running = run(WAITING)
    assert failed(running, ERROR, now=NOW).relay_at == NOW + LONGEST_LIFE
    turned_away = attrs.evolve(running, turned_away=True)
    ended = failed(turned_away, ERROR, now=NOW)
    assert ended.relay_at == NOW + timedelta(seconds=60), "the queue comes first"
    assert failed(attrs.evolve(turned_away, dispatch=2), ERROR, now=NOW).relay_at == (
        NOW + timedelta(seconds=240)
    )
    assert failed(turned_away, ERROR, now=NOW, final=True).relay_at is None
    assert succeeded(turned_away, 1, now=NOW).relay_at is None


def test_a_task_whose_runner_died_is_taken_over() -> None:
    running = run(WAITING)
    taken = run(running, now=LATER, token="t2")
    (error,) = taken.errors
    assert error.exception_class_path == WORKER_LOST
    assert "w1" in error.traceback
    assert taken.worker_ids == ("w1", "w1")
    assert taken.token == "t2"


@pytest.mark.parametrize(
    "ended",
    [
        succeeded(run(WAITING), 3, now=NOW),
        failed(run(WAITING), ERROR, now=NOW, final=True),
        cancel(WAITING, now=NOW).record,  # type: ignore[union-attr]  # it waits
    ],
    ids=lambda record: record.state.value,
)
def test_what_has_ended_stays_as_it_is(ended: TaskRecord) -> None:
    assert claim(ended, now=LATER, token="t2", worker="w", lease=LEASE) == Closed(ended)
    assert cancel(ended, now=LATER) == TooLate()
    assert outbox.relay(ended, now=LATER) == outbox.Look(ended)


def test_a_lease_is_renewed() -> None:
    running = run(WAITING)
    again = renewed(running, now=NOW + LEASE / 2, lease=LEASE)
    assert again.lease_holds(LATER)
    assert not again.lease_holds(NOW + LEASE * 1.5)


def test_a_success_keeps_the_value_and_the_token() -> None:
    done = succeeded(run(WAITING), {"a": 1}, now=LATER)
    assert (done.state, done.final, done.return_value) == (State.SUCCESSFUL, True, {"a": 1})
    assert (done.finished_at, done.lease_expires_at, done.token) == (LATER, None, "t1")


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    text = "beginning" + "x" * 3 * LONGEST_TRACEBACK + "end"
    (kept,) = failed(run(WAITING), attrs.evolve(ERROR, traceback=text), now=NOW).errors
    assert kept.traceback.startswith("beginning")
    assert kept.traceback.endswith("end")
    assert len(kept.traceback) < LONGEST_TRACEBACK + 100
    assert "20,012 characters" in kept.traceback


def test_a_waiting_task_is_withdrawn() -> None:
    decision = cancel(attrs.evolve(WAITING, relay_at=NOW), now=NOW)
    assert isinstance(decision, Withdrawn)
    record = decision.record
    assert (record.state, record.final, record.finished_at) == (State.CANCELLED, True, NOW)
    assert record.relay_at is None
    assert [e.exception_class_path for e in record.errors] == [TASK_CANCELLED]


def test_a_running_task_is_told_and_its_failure_is_the_last() -> None:
    running = run(WAITING)
    decision = cancel(running, now=NOW)
    assert decision == Requested(attrs.evolve(running, cancel_requested=True))
    ended = failed(decision.record, ERROR, now=LATER)
    assert (ended.state, ended.final, ended.errors[0]) == (State.CANCELLED, True, ERROR)
    assert [e.exception_class_path for e in ended.errors[1:]] == [TASK_CANCELLED]


def test_a_task_that_was_told_may_succeed_all_the_same() -> None:
    told = attrs.evolve(run(WAITING), cancel_requested=True)
    assert succeeded(told, 3, now=NOW).state is State.SUCCESSFUL


def test_a_task_that_was_told_and_whose_runner_died_does_not_run_again() -> None:
    told = attrs.evolve(run(WAITING), cancel_requested=True)
    decision = claim(told, now=LATER, token="t2", worker="w2", lease=LEASE)
    assert isinstance(decision, Closed)
    assert decision.record.state is State.CANCELLED
    paths = [e.exception_class_path for e in decision.record.errors]
    assert paths == [WORKER_LOST, TASK_CANCELLED]


def test_a_task_whose_runner_died_is_withdrawn() -> None:
    decision = cancel(run(WAITING), now=LATER)
    assert isinstance(decision, Withdrawn)
    paths = [e.exception_class_path for e in decision.record.errors]
    assert paths == [WORKER_LOST, TASK_CANCELLED]


def test_the_classes_among_errors_can_be_imported() -> None:
    from django.utils.module_loading import import_string

    for path in (WORKER_LOST, TASK_CANCELLED):
        assert issubclass(import_string(path), Exception)


# The outbox.


def test_a_new_record_leaves_the_one_who_enqueues_a_head_start() -> None:
    record = outbox.recorded(PAYLOAD, args=[1], kwargs={}, run_after=LATER, now=NOW, timeout=10)
    assert record.relay_at == NOW + timedelta(seconds=10) + outbox.HEAD_START
    assert (record.run_after, record.state) == (LATER, State.READY)


def test_the_relay_sends_what_waits() -> None:
    waiting = attrs.evolve(WAITING, relay_at=NOW)
    assert outbox.relay(waiting, now=NOW) == outbox.Send(waiting)
    assert waiting.cloud_task_id == "one"


def test_the_relay_looks_again_when_the_lease_ends() -> None:
    running = renewed(run(WAITING), now=LATER, lease=LEASE)
    decision = outbox.relay(running, now=LATER)
    assert decision == outbox.Look(attrs.evolve(running, relay_at=LATER + LEASE))


def test_the_relay_has_a_task_delivered_anew_whose_runner_died() -> None:
    running = run(WAITING)
    decision = outbox.relay(running, now=LATER)
    assert decision == outbox.Send(attrs.evolve(running, dispatch=1, sent=False))
    assert decision.record.cloud_task_id == "one-1"
    unanswered = outbox.put_off(decision.record, "no answer", now=LATER)
    again = outbox.relay(unanswered, now=LATER + LEASE)
    assert again.record.cloud_task_id == "one-1", "the same name until Cloud Tasks has it"
    second = run(again.record, now=LATER + LEASE, token="t2")
    assert outbox.relay(second, now=LATER + 5 * LEASE).record.cloud_task_id == "one-2"


def test_a_task_that_kills_its_runners_is_made_anew_later_and_later() -> None:
    waits = []
    for dispatch in range(9):
        running = run(attrs.evolve(WAITING, dispatch=dispatch))
        assert running.relay_at
        waits.append((running.relay_at - LATER).total_seconds())
    assert waits == [0, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_the_relay_has_a_task_delivered_anew_whose_failure_may_be_the_last() -> None:
    ended = failed(attrs.evolve(run(WAITING), turned_away=True), ERROR, now=NOW)
    assert outbox.relay(ended, now=NOW) == outbox.Send(attrs.evolve(ended, dispatch=1, sent=False))


def test_what_was_sent_is_looked_at_a_day_after_it_was_due_and_later_each_time() -> None:
    waiting = attrs.evolve(WAITING, relay_failures=3, relay_error="no", enqueued_at=NOW)
    record, waits = outbox.sent(waiting, now=NOW), []
    assert record == attrs.evolve(
        waiting, relay_failures=0, relay_error="", sent=True, relay_at=NOW + outbox.NAME_KEPT
    )
    for _ in range(6):
        assert record.relay_at
        now = record.relay_at
        decision = outbox.relay(record, now=now)
        assert decision == outbox.Send(record), "by the same name"
        record = outbox.sent(record, now=now)
        assert record.relay_at
        waits.append((record.relay_at - now) / timedelta(hours=1))
    assert waits == [25, 50, 100, 168, 168, 168]


def test_what_is_due_later_is_looked_at_after_that() -> None:
    due = NOW + timedelta(days=9)
    record = outbox.sent(attrs.evolve(WAITING, run_after=due), now=NOW)
    assert record.relay_at == due + outbox.NAME_KEPT


def test_a_task_that_was_sent_for_a_lost_runner_is_sent_again_until_somebody_comes() -> None:
    """The queue may have given the last one up: the site was closed, or it got 409."""
    record, now, names, waits = run(WAITING), LATER, [], []
    for _ in range(5):
        decision = outbox.relay(record, now=now)
        assert isinstance(decision, outbox.Send)
        record = outbox.sent(decision.record, now=now)
        names.append(record.cloud_task_id)
        assert record.relay_at
        waits.append((record.relay_at - now).total_seconds())
        now = record.relay_at
    assert names == ["one-1", "one-2", "one-3", "one-4", "one-5"]
    assert waits == [60, 120, 240, 480, 960]


def test_a_runner_that_comes_back_is_looked_at_when_its_lease_ends() -> None:
    """It froze, another Cloud Task was sent for it, it renewed, that one got 409, and it died."""
    sent = outbox.sent(outbox.relay(run(WAITING), now=LATER).record, now=LATER)
    back = renewed(sent, now=LATER, lease=LEASE)
    assert isinstance(claim(back, now=LATER, token="t2", worker="w2", lease=LEASE), Taken)
    assert back.relay_at
    assert isinstance(outbox.relay(back, now=back.relay_at), outbox.Send)


def test_a_failure_that_no_queue_repeats_any_more_is_final() -> None:
    ended = failed(run(WAITING), ERROR, now=NOW)
    early = outbox.relay(ended, now=LATER)
    assert early == outbox.Look(ended), "its queue may repeat it for 31 days"
    late = outbox.relay(ended, now=NOW + LONGEST_LIFE)
    assert late == outbox.Look(attrs.evolve(ended, final=True, relay_at=None))


def test_a_failed_task_that_somebody_wants_to_run_is_sent_until_it_does() -> None:
    ended = failed(run(WAITING), ERROR, now=NOW)
    fresh = outbox.anew(ended, now=LATER)
    sent = outbox.sent(outbox.relay(fresh, now=LATER).record, now=LATER)
    assert (sent.cloud_task_id, sent.relay_at) == ("one-1", LATER + timedelta(minutes=1))
    assert isinstance(outbox.relay(sent, now=LATER + LEASE), outbox.Send)


def test_a_task_that_was_told_to_stop_and_whose_runner_died_is_not_sent_again() -> None:
    told = attrs.evolve(run(WAITING), cancel_requested=True)
    decision = outbox.relay(told, now=LATER)
    assert isinstance(decision, outbox.Look)
    assert (decision.record.state, decision.record.final) == (State.CANCELLED, True)


def test_a_task_that_was_enqueued_without_a_record_is_looked_at_like_the_others() -> None:
    record = outbox.adopted(PAYLOAD, earlier_attempts=2, now=NOW)
    assert (record.relay_at, record.sent) == (NOW + outbox.NAME_KEPT, True)
    assert record.worker_ids == ("unknown", "unknown")


def test_what_was_not_taken_waits_longer_each_time() -> None:
    record, waits = WAITING, []
    for _ in range(12):
        record = outbox.put_off(record, "no", now=NOW)
        assert record.relay_at
        waits.append((record.relay_at - NOW).total_seconds())
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 300
    assert (record.relay_failures, record.relay_error) == (12, "no")


def test_what_gets_another_cloud_task_is_due_at_once_under_another_name() -> None:
    fresh = outbox.anew(attrs.evolve(WAITING, run_after=LATER, dispatch=1), now=NOW)
    assert (fresh.run_after, fresh.relay_at, fresh.cloud_task_id) == (None, NOW, "one-2")


def test_a_record_travels_as_it_was_enqueued() -> None:
    assert WAITING.payload == attrs.evolve(PAYLOAD, recorded=True)


def test_a_task_that_fails_beside_duplicates_does_not_breed_cloud_tasks() -> None:
    """A simulated day: a task of 5 s that always fails, delivered twice at first."""
    policy, record, now = RetryPolicy(), attrs.evolve(WAITING), NOW
    # When each Cloud Task is delivered next, and how often it was.
    cloud_tasks = [(NOW, 0), (NOW + timedelta(seconds=0.5), 0)]
    runs, ends = 0, NOW
    while now < NOW + timedelta(days=1):
        now, attempts = min(cloud_tasks)
        cloud_tasks.remove((now, attempts))
        if record.state is State.RUNNING and now >= ends:
            record = failed(record, ERROR, now=ends)
        decision = claim(record, now=now, token=f"t{runs}", worker="w", lease=LEASE)
        record, answered = decision.record, now
        if isinstance(decision, Claimed):
            runs, ends = runs + 1, now + timedelta(seconds=5)
            answered = ends
        wait = timedelta(seconds=policy.backoff(attempts + 1))
        cloud_tasks.append((answered + wait, attempts + 1))
        if record.relay_at and record.relay_at <= now:
            relayed = outbox.relay(record, now=now)
            record = relayed.record
            if isinstance(relayed, outbox.Send):
                record = outbox.sent(record, now=now)
                cloud_tasks.append((now, 0))
    assert runs < 150
    assert len(cloud_tasks) < 8
