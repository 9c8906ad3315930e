"""The lifecycle of a record: claims, leases, ends, cancelling, decisions of the relay."""

import re
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from django_tasks_cloud_tasks.core import lifecycle
from django_tasks_cloud_tasks.core.errors import IllegalTransitionError
from django_tasks_cloud_tasks.core.lifecycle import (
    DELIVERY_GRACE,
    GRACE_PERIOD,
    LONGEST_TRACEBACK,
    LOOK_UP_PAUSE,
    TABLE,
    Cancelling,
    CancelOutcome,
    Claimed,
    Ended,
    Event,
    Exhausted,
    LookUp,
    Outdated,
    Replay,
    ReplayRefusal,
    Reschedule,
    Send,
    Situation,
    TurnedAway,
    adopted,
    back_off,
    claim,
    enqueued,
    fail,
    found,
    gone,
    is_refused,
    look,
    not_looked_up,
    redeliver,
    renew,
    replay,
    sent,
    situation,
    snooze,
    succeed,
    withdraw,
)
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import (
    TASK_CANCELLED,
    TASK_LOST,
    WORKER_LOST,
    Attempt,
    AttemptError,
    State,
    TaskRecord,
    fence_of,
)
from django_tasks_cloud_tasks.core.retry_policy import Again, Over
from django_tasks_cloud_tasks.emulator.state.retries import RetryPolicy

from tests.records import changed

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEASE = timedelta(seconds=60)
LATER = NOW + LEASE
ERROR = AttemptError("builtins.ValueError", "Traceback: no")
QUEUE = Again(None, by_queue=True)
ENDPOINT = Again(LATER, by_queue=False)
OVER = Over("it was attempt 5 of 5")
PAYLOAD = TaskPayload(task_id="one", task_path="shop.tasks.add", args=[1], kwargs={"b": 2})
WAITING = changed(
    enqueued(PAYLOAD, args=[1], kwargs={"b": 2}, run_after=None, now=NOW, timeout=0), relay__at=NOW
)


def withdrawn(record: TaskRecord) -> TaskRecord:
    decision = withdraw(record, now=NOW)
    assert decision.outcome is CancelOutcome.CANCELLED
    return decision.record


def run(record: TaskRecord, *, now: datetime = NOW, token: str = "t1") -> TaskRecord:
    claimed = claim(record, now=now, token=token, worker="w1", lease=LEASE)
    assert isinstance(claimed, Claimed)
    return claimed.record


def test_a_waiting_task_is_claimed() -> None:
    record = run(changed(WAITING, relay__at=NOW, relay__failures=2, relay__error="no"))
    assert record.relay.at == LATER, "should the runner die"
    assert record == changed(
        WAITING,
        relay__at=LATER,
        state=State.RUNNING,
        attempts=(Attempt("w1", NOW),),
        claim__token="t1",
        claim__expires_at=LATER,
        redelivery__sent=True,
    )


def test_a_failed_attempt_is_followed_by_another() -> None:
    first = fail(run(WAITING), ERROR, now=NOW, then=QUEUE)
    assert (first.state, first.final, first.finished_at) == (State.READY, False, None)
    assert first.attempts == (Attempt("w1", NOW, NOW, ERROR),)
    second = run(first, now=LATER, token="t2")
    assert (second.started_at, second.last_attempted_at) == (NOW, LATER)
    assert (second.finished_at, second.errors) == (None, (ERROR,))
    assert second.worker_ids == ("w1", "w1")


def test_a_running_task_is_not_claimed_and_that_is_remembered() -> None:
    running = run(WAITING)
    almost = LATER - timedelta(microseconds=1)
    decision = claim(running, now=almost, token="t2", worker="w2", lease=LEASE)
    assert decision == TurnedAway(changed(running, redelivery__turned_away=True), LATER)
    assert run(fail(decision.record, ERROR, now=NOW, then=QUEUE)).redelivery.turned_away is False


def test_a_failure_after_a_delivery_was_turned_away_is_made_up_for() -> None:
    """What was sent away may have been the queue's last."""
    running = run(WAITING)
    assert fail(running, ERROR, now=NOW, then=QUEUE).relay.at == NOW + DELIVERY_GRACE
    turned_away = changed(running, redelivery__turned_away=True)
    waiting = fail(turned_away, ERROR, now=NOW, then=QUEUE)
    assert waiting.relay.at == NOW + timedelta(seconds=60), "the queue comes first"
    third = changed(turned_away, redelivery__count=2)
    assert fail(third, ERROR, now=NOW, then=QUEUE).relay.at == NOW + timedelta(seconds=240)
    assert fail(turned_away, ERROR, now=NOW, then=OVER).relay.at is None
    assert succeed(turned_away, 1, now=NOW).relay.at is None


def test_a_task_whose_runner_died_is_taken_over() -> None:
    running = run(WAITING)
    taken = run(running, now=LATER, token="t2")
    (error,) = taken.errors
    assert error.exception_class_path == WORKER_LOST
    assert "w1" in error.traceback
    assert taken.worker_ids == ("w1", "w1")
    assert taken.claim.token == "t2"


@pytest.mark.parametrize(
    "ended",
    [
        succeed(run(WAITING), 3, now=NOW),
        fail(run(WAITING), ERROR, now=NOW, then=OVER),
        withdrawn(WAITING),
    ],
    ids=lambda record: record.state.value,
)
def test_what_has_ended_stays_as_it_is(ended: TaskRecord) -> None:
    assert claim(ended, now=LATER, token="t2", worker="w", lease=LEASE) == Ended(ended)
    assert withdraw(ended, now=LATER) == Cancelling(CancelOutcome.TOO_LATE, ended)
    assert look(ended, now=LATER) == Reschedule(ended)


def test_a_lease_is_renewed() -> None:
    running = run(WAITING)
    again = renew(running, now=NOW + LEASE / 2, lease=LEASE)
    assert again.lease_holds(LATER)
    assert not again.lease_holds(NOW + LEASE * 1.5)


def test_a_success_keeps_the_value_and_the_token() -> None:
    done = succeed(run(WAITING), {"a": 1}, now=LATER)
    assert (done.state, done.final, done.return_value) == (State.SUCCESSFUL, True, {"a": 1})
    assert (done.finished_at, done.claim.expires_at, done.claim.token) == (LATER, None, "t1")


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    text = "beginning" + "x" * 3 * LONGEST_TRACEBACK + "end"
    (kept,) = fail(run(WAITING), attrs.evolve(ERROR, traceback=text), now=NOW, then=OVER).errors
    assert kept.traceback.startswith("beginning")
    assert kept.traceback.endswith("end")
    assert len(kept.traceback) < LONGEST_TRACEBACK + 100
    assert "20,012 characters" in kept.traceback


def test_a_waiting_task_is_withdrawn() -> None:
    decision = withdraw(changed(WAITING, relay__at=NOW), now=NOW)
    assert decision.outcome is CancelOutcome.CANCELLED
    record = decision.record
    assert (record.state, record.final, record.finished_at) == (State.CANCELLED, True, NOW)
    assert record.relay.at is None
    assert [e.exception_class_path for e in record.errors] == [TASK_CANCELLED]


def test_a_running_task_is_told_and_its_failure_is_the_last() -> None:
    running = run(WAITING)
    decision = withdraw(running, now=NOW)
    asked = changed(running, cancel_requested=True)
    assert decision == Cancelling(CancelOutcome.REQUESTED, asked)
    ended = fail(decision.record, ERROR, now=LATER, then=QUEUE)
    assert (ended.state, ended.final, ended.errors[0]) == (State.CANCELLED, True, ERROR)
    assert [e.exception_class_path for e in ended.errors[1:]] == [TASK_CANCELLED]


def test_a_task_that_was_told_may_succeed_all_the_same() -> None:
    told = changed(run(WAITING), cancel_requested=True)
    assert succeed(told, 3, now=NOW).state is State.SUCCESSFUL


def test_a_task_that_was_told_and_whose_runner_died_does_not_run_again() -> None:
    told = changed(run(WAITING), cancel_requested=True)
    decision = claim(told, now=LATER, token="t2", worker="w2", lease=LEASE)
    assert isinstance(decision, Ended)
    assert decision.record.state is State.CANCELLED
    paths = [e.exception_class_path for e in decision.record.errors]
    assert paths == [WORKER_LOST, TASK_CANCELLED]


def test_a_task_whose_runner_died_is_withdrawn() -> None:
    decision = withdraw(run(WAITING), now=LATER)
    assert decision.outcome is CancelOutcome.CANCELLED
    paths = [e.exception_class_path for e in decision.record.errors]
    assert paths == [WORKER_LOST, TASK_CANCELLED]


def test_the_classes_among_errors_can_be_imported() -> None:
    from django.utils.module_loading import import_string

    for path in (WORKER_LOST, TASK_CANCELLED, TASK_LOST):
        assert issubclass(import_string(path), Exception)


# The outbox.


def test_a_new_record_leaves_the_one_who_enqueues_a_head_start() -> None:
    record = enqueued(PAYLOAD, args=[1], kwargs={}, run_after=LATER, now=NOW, timeout=10)
    assert record.relay.at == NOW + timedelta(seconds=10) + GRACE_PERIOD
    assert (record.run_after, record.state) == (LATER, State.READY)


def test_the_relay_sends_what_waits() -> None:
    waiting = changed(WAITING, relay__at=NOW)
    assert look(waiting, now=NOW) == Send(waiting)
    assert waiting.cloud_task_id == "one"


def test_the_relay_looks_again_when_the_lease_ends() -> None:
    running = renew(run(WAITING), now=LATER, lease=LEASE)
    decision = look(running, now=LATER)
    assert decision == Reschedule(changed(running, relay__at=LATER + LEASE))


def test_the_relay_has_a_task_delivered_anew_whose_runner_died() -> None:
    running = run(WAITING)
    decision = look(running, now=LATER)
    assert decision == Send(changed(running, redelivery__count=1, redelivery__sent=False))
    assert decision.record.cloud_task_id == "one-1"
    unanswered = back_off(decision.record, "no answer", now=LATER)
    again = look(unanswered, now=LATER + LEASE)
    assert again.record.cloud_task_id == "one-1", "the same name until Cloud Tasks has it"
    second = run(again.record, now=LATER + LEASE, token="t2")
    assert look(second, now=LATER + 5 * LEASE).record.cloud_task_id == "one-2"


def test_a_task_that_kills_its_runners_is_made_anew_later_and_later() -> None:
    waits = []
    for dispatch in range(9):
        running = run(changed(WAITING, redelivery__count=dispatch))
        assert running.relay.at
        waits.append((running.relay.at - LATER).total_seconds())
    assert waits == [0, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_the_relay_has_a_task_delivered_anew_whose_failure_may_be_the_last() -> None:
    turned_away = changed(run(WAITING), redelivery__turned_away=True)
    waiting = fail(turned_away, ERROR, now=NOW, then=QUEUE)
    again = changed(waiting, redelivery__count=1, redelivery__sent=False)
    assert look(waiting, now=NOW) == Send(again)


def test_what_was_sent_is_looked_up_an_hour_after_it_was_due_and_later_each_time() -> None:
    waiting = changed(WAITING, relay__failures=3, relay__error="no", payload__enqueued_at=NOW)
    record, waits = sent(waiting, now=NOW), []
    assert record == changed(
        waiting,
        relay__failures=0,
        relay__error="",
        redelivery__sent=True,
        relay__at=NOW + DELIVERY_GRACE,
    )
    for _ in range(10):
        assert record.relay.at
        now = record.relay.at
        assert look(record, now=now) == LookUp(record, ("one",))
        record = found(record, now=now)
        assert record.relay.at
        waits.append((record.relay.at - now) / timedelta(hours=1))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 168, 168]


def test_what_is_due_later_is_looked_up_after_that() -> None:
    due = NOW + timedelta(days=9)
    record = sent(changed(WAITING, run_after=due), now=NOW)
    assert record.relay.at == due + DELIVERY_GRACE


def test_the_first_and_the_latest_cloud_tasks_of_a_task_are_looked_up() -> None:
    record = sent(changed(WAITING, redelivery__count=9), now=NOW)
    names = ("one", "one-5", "one-6", "one-7", "one-8", "one-9")
    assert look(record, now=LATER) == LookUp(record, names)


def test_a_task_that_cloud_tasks_lost_has_failed_and_says_what_is_known() -> None:
    due = NOW - timedelta(hours=2)
    record = sent(changed(WAITING, run_after=due), now=NOW)
    lost = gone(record, now=LATER, redelivered=False)
    assert (lost.state, lost.finished_at, lost.relay.at) == (State.FAILED, LATER, None)
    (error,) = lost.errors
    assert error.exception_class_path == TASK_LOST == lost.failure
    assert "after 0 of 100 attempts" in error.traceback
    assert "It was due at 2026-11-22 10:00:00 UTC" in error.traceback


def test_a_task_that_cloud_tasks_lost_is_sent_again_where_the_site_wants_that() -> None:
    record = sent(WAITING, now=NOW)
    again = gone(record, now=LATER, redelivered=True)
    assert (again.cloud_task_id, again.relay.at) == ("one-1", LATER)
    assert look(again, now=LATER) == Send(again)


def test_a_task_that_could_not_be_looked_up_is_looked_up_again() -> None:
    record = sent(WAITING, now=NOW)
    assert not_looked_up(record, now=LATER) == changed(record, relay__at=LATER + LOOK_UP_PAUSE)


# Retries.


def test_the_endpoint_brings_the_next_attempt_under_another_name_at_its_time() -> None:
    waiting = fail(run(WAITING), ERROR, now=NOW, then=ENDPOINT, timeout=10)
    assert (waiting.state, waiting.cloud_task_id, waiting.due_at) == (State.READY, "one-1", LATER)
    assert waiting.relay.at == NOW + timedelta(seconds=10) + GRACE_PERIOD, "should it not be sent"
    assert look(waiting, now=LATER) == Send(waiting)
    assert sent(waiting, now=NOW).relay.at == LATER + DELIVERY_GRACE


def test_a_retry_beyond_the_horizon_is_sent_by_the_relay_in_time() -> None:
    far = NOW + timedelta(days=90)
    waiting = fail(run(WAITING), ERROR, now=NOW, then=Again(far, by_queue=False))
    assert waiting.relay.at == far - timedelta(days=23)


def test_a_cloud_task_that_was_followed_by_another_changes_nothing_when_it_comes_again() -> None:
    waiting = sent(fail(run(WAITING), ERROR, now=NOW, then=ENDPOINT), now=NOW)

    def delivered(number: int | None) -> object:
        return claim(waiting, now=NOW, token="t2", worker="w", lease=LEASE, number=number)

    assert delivered(0) == Outdated(waiting), "its answer was lost"
    assert isinstance(delivered(1), Claimed)
    assert isinstance(delivered(None), Claimed), "somebody delivers it by hand"


def test_a_lost_runner_does_not_make_deliveries_of_earlier_cloud_tasks_superseded() -> None:
    again = sent(look(run(WAITING), now=LATER).record, now=LATER)
    first = claim(again, now=LATER, token="t2", worker="w", lease=LEASE, number=0)
    assert isinstance(first, Claimed)


def test_a_snooze_is_no_attempt() -> None:
    failed = fail(run(WAITING), ERROR, now=NOW, then=QUEUE)
    second = run(failed, token="t2")
    snoozes = snooze(second, Again(LATER, by_queue=False, counted=False), now=NOW)
    assert snoozes.attempts == failed.attempts
    assert (snoozes.state, snoozes.due_at, snoozes.cloud_task_id) == (State.READY, LATER, "one-1")


def test_a_task_that_was_told_to_stop_and_snoozes_is_cancelled() -> None:
    told = changed(run(WAITING), cancel_requested=True)
    ended = snooze(told, Again(LATER, by_queue=False, counted=False), now=NOW)
    assert (ended.state, ended.relay.at) == (State.CANCELLED, None)


def test_a_task_whose_workers_all_died_has_failed() -> None:
    first = run(WAITING)
    second = claim(first, now=LATER, token="t2", worker="w", lease=LEASE, max_attempts=2)
    assert isinstance(second, Claimed)
    third = claim(
        second.record, now=LATER + LEASE, token="t3", worker="w", lease=LEASE, max_attempts=2
    )
    assert isinstance(third, Exhausted)
    assert (third.record.state, third.record.failure) == (State.FAILED, WORKER_LOST)
    assert third.record.relay.at is None


def test_a_remark_about_an_attempt_is_kept() -> None:
    done = succeed(run(WAITING), 1, now=LATER, note="It took long.")
    failed = fail(run(WAITING), ERROR, now=LATER, then=OVER, note="It took long.")
    assert [record.attempts[-1].note for record in (done, failed)] == ["It took long."] * 2


def test_a_task_that_was_sent_for_a_lost_runner_is_sent_again_until_somebody_comes() -> None:
    """The queue may have given the last one up: the site was closed, or it got 409."""
    record, now, names, waits = run(WAITING), LATER, [], []
    for _ in range(5):
        decision = look(record, now=now)
        assert isinstance(decision, Send)
        record = sent(decision.record, now=now)
        names.append(record.cloud_task_id)
        assert record.relay.at
        waits.append((record.relay.at - now).total_seconds())
        now = record.relay.at
    assert names == ["one-1", "one-2", "one-3", "one-4", "one-5"]
    assert waits == [60, 120, 240, 480, 960]


def test_a_runner_that_comes_back_is_looked_at_when_its_lease_ends() -> None:
    """It froze, another Cloud Task was sent for it, it renewed, that one got 409, and it died."""
    again = sent(look(run(WAITING), now=LATER).record, now=LATER)
    back = renew(again, now=LATER, lease=LEASE)
    assert isinstance(claim(back, now=LATER, token="t2", worker="w2", lease=LEASE), TurnedAway)
    assert back.relay.at
    assert isinstance(look(back, now=back.relay.at), Send)


def test_a_task_that_is_run_now_and_then_does_not_come_is_looked_up() -> None:
    waiting = fail(run(WAITING), ERROR, now=NOW, then=QUEUE)
    fresh = redeliver(waiting, now=LATER)
    again = sent(look(fresh, now=LATER).record, now=LATER)
    assert again.cloud_task_id == "one-1"
    assert again.relay.at
    assert isinstance(look(again, now=again.relay.at), LookUp)


def test_a_task_that_was_told_to_stop_and_whose_runner_died_is_not_sent_again() -> None:
    told = changed(run(WAITING), cancel_requested=True)
    decision = look(told, now=LATER)
    assert isinstance(decision, Reschedule)
    assert (decision.record.state, decision.record.final) == (State.CANCELLED, True)


def test_a_task_that_was_enqueued_without_a_record_is_looked_at_like_the_others() -> None:
    record = adopted(PAYLOAD, earlier_attempts=2, now=NOW)
    assert (record.relay.at, record.redelivery.sent) == (NOW + DELIVERY_GRACE, True)
    assert record.worker_ids == ("unknown", "unknown")


def test_what_was_not_taken_waits_longer_each_time() -> None:
    record, waits = WAITING, []
    for _ in range(12):
        record = back_off(record, "no", now=NOW)
        assert record.relay.at
        waits.append((record.relay.at - NOW).total_seconds())
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 300
    assert (record.relay.failures, record.relay.error) == (12, "no")


def test_what_gets_another_cloud_task_is_due_at_once_under_another_name() -> None:
    fresh = redeliver(changed(WAITING, run_after=LATER, redelivery__count=1), now=NOW)
    assert (fresh.run_after, fresh.relay.at, fresh.cloud_task_id) == (None, NOW, "one-2")


def test_a_record_travels_as_it_was_enqueued() -> None:
    assert WAITING.payload == attrs.evolve(PAYLOAD, recorded=True)


def test_a_task_that_fails_beside_duplicates_does_not_breed_cloud_tasks() -> None:
    """A simulated day: a task of 5 s that always fails, delivered twice at first."""
    policy, record, now = RetryPolicy(), changed(WAITING), NOW
    # When each Cloud Task is delivered next, and how often it was.
    cloud_tasks = [(NOW, 0), (NOW + timedelta(seconds=0.5), 0)]
    runs, ends = 0, NOW
    while now < NOW + timedelta(days=1):
        now, attempts = min(cloud_tasks)
        cloud_tasks.remove((now, attempts))
        if record.state is State.RUNNING and now >= ends:
            record = fail(record, ERROR, now=ends, then=QUEUE)
        decision = claim(record, now=now, token=f"t{runs}", worker="w", lease=LEASE)
        record, answered = decision.record, now
        if isinstance(decision, Claimed):
            runs, ends = runs + 1, now + timedelta(seconds=5)
            answered = ends
        wait = timedelta(seconds=policy.backoff(attempts + 1))
        cloud_tasks.append((answered + wait, attempts + 1))
        if record.relay.at and record.relay.at <= now:
            relayed = look(record, now=now)
            record = relayed.record
            if isinstance(relayed, Send):
                record = sent(record, now=now)
                cloud_tasks.append((now, 0))
    assert runs < 150
    assert len(cloud_tasks) < 8


# Replays.

COPY = enqueued(
    attrs.evolve(PAYLOAD, task_id="two"), args=[1], kwargs={}, run_after=None, now=LATER, timeout=0
)


def test_a_replay_is_a_new_task_and_both_records_name_the_other() -> None:
    failed = fail(run(WAITING), ERROR, now=NOW, then=OVER)
    decision = replay(failed, COPY, now=LATER)
    assert decision == Replay(changed(failed, replayed_as="two"), changed(COPY, replay_of="one"))
    assert isinstance(decision, Replay)
    assert decision.original.failure == ERROR.exception_class_path, "it has failed all the same"


def test_a_task_is_replayed_once_unless_somebody_wants_it_again() -> None:
    failed = changed(fail(run(WAITING), ERROR, now=NOW, then=OVER), replayed_as="earlier")
    assert replay(failed, COPY, now=LATER) is ReplayRefusal.REPLAYED
    decision = replay(failed, COPY, now=LATER, again=True)
    assert isinstance(decision, Replay)
    assert decision.original.replayed_as == "two"


@pytest.mark.parametrize("again", [False, True])
def test_a_task_that_has_not_ended_is_not_replayed(again: bool) -> None:
    waiting_again = fail(run(WAITING), ERROR, now=NOW, then=QUEUE)
    for record in (WAITING, run(WAITING), waiting_again):
        assert replay(record, COPY, now=LATER, again=again) is ReplayRefusal.UNFINISHED


def test_of_two_replays_the_fence_lets_one_through() -> None:
    failed = fail(run(WAITING), ERROR, now=NOW, then=OVER)
    first = replay(failed, COPY, now=LATER)
    assert isinstance(first, Replay)
    assert fence_of(first.original) != fence_of(failed)


# The table.

ADDED = adopted(PAYLOAD, earlier_attempts=0, now=NOW)
RUNNING = run(WAITING)
SECOND = run(fail(RUNNING, ERROR, now=NOW, then=QUEUE), token="t2")
RETRYING = fail(RUNNING, ERROR, now=NOW, then=QUEUE)
SNOOZED = snooze(RUNNING, Again(LATER, by_queue=False, counted=False), now=NOW)
RECORDS = {
    Situation.READY: [
        *(WAITING, ADDED, sent(WAITING, now=NOW), back_off(WAITING, "no", now=NOW)),
        sent(SNOOZED, now=NOW),
    ],
    Situation.RUNNING: [RUNNING, SECOND, changed(RUNNING, redelivery__turned_away=True)],
    Situation.LOST: [RUNNING, SECOND, changed(RUNNING, redelivery__turned_away=True)],
    Situation.RETRYING: [
        *(RETRYING, changed(RETRYING, redelivery__turned_away=True)),
        sent(fail(RUNNING, ERROR, now=NOW, then=ENDPOINT), now=NOW),
        adopted(PAYLOAD, earlier_attempts=1, now=NOW),
    ],
    Situation.ENDED: [
        succeed(RUNNING, 1, now=NOW),
        fail(RUNNING, ERROR, now=NOW, then=OVER),
        withdrawn(WAITING),
        withdrawn(RETRYING),
        gone(sent(WAITING, now=NOW), now=NOW, redelivered=False),
        changed(fail(RUNNING, ERROR, now=NOW, then=OVER), replayed_as="two"),
    ],
}
for where in (Situation.RUNNING, Situation.LOST):
    RECORDS[where] += [changed(record, cancel_requested=True) for record in RECORDS[where]]
WHEN = {Situation.LOST: [LATER, NOW + timedelta(days=31)]}


def after(  # noqa: PLR0912 - one branch for each event
    event: Event, record: TaskRecord, now: datetime
) -> list[TaskRecord | None]:
    """Return the possible records after an event; None means that the event is refused."""
    match event:
        case Event.DELIVERED:
            delivered = [
                claim(record, now=now, token="t2", worker="w2", lease=LEASE, number=number)
                for number in (None, 0)
            ]
            return [None if made == Ended(record) else made.record for made in delivered]
        case Event.RENEWED:
            return [renew(record, now=now, lease=2 * LEASE)]
        case Event.RETURNED:
            return [succeed(record, 1, now=now)]
        case Event.RAISED:
            return [fail(record, ERROR, now=now, then=then) for then in (QUEUE, ENDPOINT, OVER)]
        case Event.SNOOZED:
            return [snooze(record, Again(LATER, by_queue=False, counted=False), now=now)]
        case Event.CANCELLED:
            cancelled = withdraw(record, now=now)
            return [None if cancelled.outcome is CancelOutcome.TOO_LATE else cancelled.record]
        case Event.RUN_NOW:
            return [redeliver(record, now=now)]
        case Event.RELAY_DUE:
            return [look(record, now=now).record]
        case Event.SENT:
            return [sent(record, now=now)]
        case Event.NOT_SENT:
            return [back_off(record, "no", now=now)]
        case Event.FOUND:
            return [found(record, now=now)]
        case Event.GONE:
            return [gone(record, now=now, redelivered=again) for again in (False, True)]
        case Event.REPLAYED:
            decisions = [replay(record, COPY, now=now, again=again) for again in (False, True)]
            return [d.original if isinstance(d, Replay) else None for d in decisions]


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("where", Situation)
def test_an_event_leads_where_the_table_says_and_everywhere_that_it_says(
    where: Situation, event: Event
) -> None:
    reached: set[Situation] = set()
    for record in RECORDS[where]:
        for now in WHEN.get(where, [NOW]):
            assert situation(record, now) is where
            try:
                results = after(event, record, now)
            except IllegalTransitionError as error:
                assert "The task one" in str(error)
                results = [None]
            assert is_refused(event, record, now) == (not any(results))
            for result in results:
                if result is not None:
                    reached.add(situation(result, now))
                    assert (result.relay.at is None) == result.final
    assert reached == TABLE[event][where]


def test_the_table_of_the_documentation_is_that_of_the_code() -> None:
    rows = {}
    for line in str(lifecycle.__doc__).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in Event.__members__:
            rows[Event[cells[0]]] = {
                where: frozenset(Situation[name] for name in re.findall(r"[A-Z]{4,}", cell))
                for where, cell in zip(Situation, cells[1:], strict=True)
            }
    assert rows == TABLE
