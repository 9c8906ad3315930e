"""Random histories of a recorded task. The invariants must hold after any order of events."""

from datetime import UTC, datetime, timedelta

from django_tasks_cloud_tasks.core.lifecycle import (
    CancelOutcome,
    Claimed,
    Event,
    LookUp,
    Send,
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
    sent,
    snooze,
    succeed,
    withdraw,
)
from django_tasks_cloud_tasks.core.payload import TaskPayload
from django_tasks_cloud_tasks.core.records import (
    TASK_CANCELLED,
    TASK_LOST,
    AttemptError,
    State,
    TaskRecord,
)
from django_tasks_cloud_tasks.core.retention import FINISHED, may_prune
from django_tasks_cloud_tasks.core.retry_policy import Again, Over
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEASE = timedelta(seconds=60)
ERROR = AttemptError("builtins.ValueError", "Traceback: no")
PAYLOAD = TaskPayload(
    task_id="one", task_path="shop.tasks.add", args=[], kwargs={}, enqueued_at=NOW
)


THEN = [Again(None, by_queue=True), Again(NOW, by_queue=False), Over("of the limit")]
MOST_ATTEMPTS = 3


class Histories(RuleBasedStateMachine):
    """A record, one runner that may die or freeze, and a relay that may fail or die."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.record = enqueued(PAYLOAD, args=[], kwargs={}, run_after=None, now=NOW, timeout=10)
        self.runner = ""  # the token of the one that runs, as far as it knows
        self.claims = 0
        self.ended: TaskRecord | None = None

    @property
    def runs_here(self) -> bool:
        return self.record.state is State.RUNNING and self.record.claim.token == self.runner

    @property
    def is_due(self) -> bool:
        return self.record.relay.at is not None and self.record.relay.at <= self.now

    @rule(seconds=st.sampled_from([1, 20, 59, 60, 90, 4000, 90_000, 40 * 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def the_time_of_the_relay_comes(self) -> None:
        if self.record.relay.at is not None:
            self.now = max(self.now, self.record.relay.at)

    @rule(number=st.sampled_from([None, 0, 1, 2]))
    def it_is_delivered(self, number: int | None) -> None:
        self.claims += 1
        token = f"t{self.claims}"
        decision = claim(
            self.record,
            now=self.now,
            token=token,
            worker="w",
            lease=LEASE,
            max_attempts=MOST_ATTEMPTS,
            number=number,
        )
        if isinstance(decision, Claimed):
            assert not self.record.lease_holds(self.now), "two run at a time"
            assert not self.record.final, "it runs after its end"
            self.runner = token
        self.record = decision.record

    @precondition(lambda self: self.runs_here)
    @rule()
    def it_succeeds(self) -> None:
        self.record, self.runner = succeed(self.record, 1, now=self.now), ""

    @precondition(lambda self: self.runs_here)
    @rule(then=st.sampled_from(THEN), wait=st.sampled_from([0, 100, 90 * 86_400]))
    def it_fails(self, then: Again | Over, wait: int) -> None:
        if isinstance(then, Again) and not then.by_queue:
            then = Again(self.now + timedelta(seconds=wait), by_queue=False)
        self.record = fail(self.record, ERROR, now=self.now, then=then)
        self.runner = ""

    @precondition(lambda self: self.runs_here)
    @rule(wait=st.sampled_from([0, 100, 90 * 86_400]))
    def it_snoozes(self, wait: int) -> None:
        then = Again(self.now + timedelta(seconds=wait), by_queue=False, counted=False)
        self.record, self.runner = snooze(self.record, then, now=self.now), ""

    @precondition(lambda self: self.runs_here)
    @rule()
    def it_is_renewed(self) -> None:
        self.record = renew(self.record, now=self.now, lease=LEASE)

    @rule()
    def the_runner_dies(self) -> None:
        self.runner = ""

    @rule()
    def it_is_cancelled(self) -> None:
        decision = withdraw(self.record, now=self.now)
        if decision.outcome is not CancelOutcome.TOO_LATE:
            self.record = decision.record

    @precondition(lambda self: not is_refused(Event.RUN_NOW, self.record, self.now))
    @rule()
    def somebody_runs_it_now(self) -> None:
        self.record = redeliver(self.record, now=self.now)

    @precondition(lambda self: self.is_due)
    @rule(
        result=st.sampled_from(["taken", "refused", "the relay dies"]),
        answer=st.sampled_from(["there", "gone", "gone, and wanted", "no answer"]),
    )
    def the_relay_looks(self, result: str, answer: str) -> None:
        decision = look(self.record, now=self.now)
        self.record = decision.record
        if isinstance(decision, LookUp):
            assert not self.record.lease_holds(self.now)
            match answer:
                case "there":
                    self.record = found(self.record, now=self.now)
                case "no answer":
                    self.record = not_looked_up(self.record, now=self.now)
                case _:
                    wanted = answer == "gone, and wanted"
                    self.record = gone(self.record, now=self.now, redelivered=wanted)
        if isinstance(decision, Send) and result == "taken":
            self.record = sent(self.record, now=self.now)
        elif isinstance(decision, Send) and result == "refused":
            self.record = back_off(self.record, "no", now=self.now)

    @invariant()
    def only_an_end_is_pruned(self) -> None:
        later = self.now + timedelta(days=999)
        assert may_prune(self.record, FINISHED, later) == self.record.final

    @invariant()
    def an_end_is_an_end(self) -> None:
        if self.ended is not None:
            assert self.record == self.ended
        elif self.record.final:
            self.ended = self.record

    @invariant()
    def there_is_one_error_for_each_failed_attempt(self) -> None:
        attempts, errors = len(self.record.worker_ids), len(self.record.errors)
        added = {TASK_CANCELLED, TASK_LOST}
        told = sum(e.exception_class_path in added for e in self.record.errors)
        succeeds = self.record.state in (State.RUNNING, State.SUCCESSFUL)
        assert errors - told == attempts - succeeds

    @invariant()
    def a_failed_task_says_why(self) -> None:
        assert bool(self.record.failure) == (self.record.state is State.FAILED)

    @invariant()
    def what_waits_for_its_time_has_a_cloud_task_or_gets_one(self) -> None:
        if self.record.state is State.READY and not self.record.redelivery.sent:
            assert self.record.relay.at is not None

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert (self.record.relay.at is None) == self.record.final
        assert self.record.final or is_seen_to(self.record)


def is_seen_to(record: TaskRecord) -> bool:
    """Return whether the relay alone sends the task, and then looks it up or sends it again.

    No delivery happens meanwhile. The first Cloud Task may be lost, so the relay must send another.
    """
    sends, now = 0, NOW
    for _ in range(20):
        if record.relay.at is None:
            return record.final
        now = record.relay.at
        decision = look(record, now=now)
        record = decision.record
        if isinstance(decision, LookUp):
            return True
        if isinstance(decision, Send):
            sends += 1
            record = sent(record, now=now)
        if sends == 2:
            return True
    return False


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
