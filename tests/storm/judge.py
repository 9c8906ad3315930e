"""Compares the ends of the tasks with the orders, the journal and the log of the emulator."""

from __future__ import annotations

import json
import math
import re
from collections import Counter as Tally
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import attrs
from django_tasks_cloud_tasks import StoredTask
from django_tasks_cloud_tasks.adapters.client_version import sends_retry_config
from django_tasks_cloud_tasks.core.errors import UncommittedWorkError
from django_tasks_cloud_tasks.core.records import TASK_LOST, WORKER_LOST
from django_tasks_cloud_tasks.core.retry_policy import DEFAULT_MAX_ATTEMPTS

from tests.models import Order
from tests.storm.journal import COMMITTED, RAISED, RETURNED, SNOOZED, Run, Told
from tests.storm.tasks import (
    ATOMIC,
    CARRYING,
    DISCARD_PATH,
    DISCARDED,
    FAILED_PATH,
    LEAVING,
    LIMITS,
    MARKING,
    QUEUES,
    RETRY_PATH,
    RETRYING,
    TIMES,
    WAITS,
    failures_of,
    function,
    gives_up,
)

DATABASE_FAULTS = ("django.db.", f"{UncommittedWorkError.__module__}.UncommittedWorkError")
"""Prefixes of the paths of errors that can occur outside the function of a task."""

_ATTEMPT = re.compile(
    r"attempt (?:started|finished) +task=\S+/tasks/([0-9a-f]{32})(?:-(\d+))? +attempt=(\d+)"
    r"(?:.* answer=(.*?)(?:  |$))?",
    re.MULTILINE,
)


@attrs.define
class Dispatches:
    """The dispatches of one Cloud Task, from the log of the emulator.

    Attributes:
        count: the number of dispatches.
        answers: the status of each response, or the failure that the log gives instead.
    """

    count: int = 0
    answers: list[str] = attrs.field(factory=list)

    @property
    def accepted(self) -> bool:
        """Whether a response told Cloud Tasks to remove the task."""
        return any(answer.startswith("2") for answer in self.answers)


def dispatches(log: Path) -> dict[tuple[str, int], Dispatches]:
    """Read the log. The result is by the id of the task and the number of the Cloud Task."""
    found: dict[tuple[str, int], Dispatches] = {}
    for task_id, number, attempt, answer in _ATTEMPT.findall(log.read_text(errors="replace")):
        one = found.setdefault((task_id, int(number or 0)), Dispatches())
        one.count = max(one.count, int(attempt))
        one.answers += [answer] if answer else []
    return found


@attrs.frozen(kw_only=True)
class Case:
    """The data about the task of one order.

    Attributes:
        order: the order.
        row: the record of the task.
        told: the journal of the task.
        effects: the number of its effects in the database.
        latest: the dispatches of the Cloud Task that the record names.
    """

    order: Order
    row: StoredTask
    told: Told
    effects: int
    latest: Dispatches

    @property
    def kind(self) -> str:
        return str(self.order.kind)

    @property
    def is_good(self) -> bool:
        return is_good(self.row)

    @property
    def reasons(self) -> list[str]:
        """The class path of each error."""
        return [path for path, _ in errors_of(self.row)]

    @property
    def made(self) -> int:
        """The number of recorded attempts."""
        return len(self.row.record.worker_ids)

    @property
    def limit(self) -> int:
        """The number of attempts that the policy of the task allows."""
        return LIMITS.get(self.kind, DEFAULT_MAX_ATTEMPTS)

    @property
    def most_dispatches(self) -> int:
        """The number of dispatches that one of its Cloud Tasks may have; -1 without a limit."""
        if self.kind in CARRYING and sends_retry_config():
            return self.limit
        return QUEUES[self.order.queue]

    def __str__(self) -> str:
        row = self.row
        errors = [path.rpartition(".")[2] for path in self.reasons]
        runs = [(run.number, *(event.rpartition(".")[2] for event in run.at)) for run in self.runs]
        return (
            f"{self.order}: {row.status}, final {row.record.final}, {row.attempt_count} attempts, "
            f"{errors}, lease until {row.claim_expires_at}, looked at {row.relay_at}, "
            f"made anew {row.redelivery_count} times, {row.relay_error!r}, {row.task_id}: "
            f"{runs}, {self.told.ends}, {self.latest}"
        )

    @property
    def runs(self) -> list[Run]:
        return self.told.runs


@attrs.frozen(kw_only=True)
class Judge:
    """Finds the faults of the tasks of one storm.

    Attributes:
        ingredients: the parts of the storm.
        redelivers: whether LOST_TASKS is "redeliver".
        moves: each move of the emulator's clock: the time of the move and its seconds.
        calm_at: the time of the last kill.
    """

    ingredients: Collection[str]
    redelivers: bool
    moves: Sequence[tuple[float, float]]
    calm_at: datetime

    def faults(self, case: Case) -> Iterator[str]:
        """Return the faults of a task."""
        if not case.row.record.final:
            yield "lost"
        yield from self._wrong_effects(case)
        yield from self._wrong_result(case)
        yield from self._wrong_end(case)
        yield from self._wrong_errors(case)
        yield from self._wrong_signals(case)
        yield from self._wrong_numbers(case)
        yield from self._wrong_attempts(case)

    def _wrong_effects(self, case: Case) -> Iterator[str]:
        effects, began = case.effects, len(case.runs)
        returned = sum(RETURNED in run.at for run in case.runs)
        if case.is_good and not effects:
            yield "misreported, a success without effect"
        if case.kind in ATOMIC and not case.is_good and effects:
            yield "misreported, an effect without success"
        if effects > 1 and (case.kind in ATOMIC or self._nobody_dies):
            yield f"doubled, {effects} times"
        if effects > began or (case.kind in MARKING and effects < returned):
            yield f"began {began} times, returned {returned}, effects {effects}"

    def _wrong_result(self, case: Case) -> Iterator[str]:
        order, row = case.order, case.row
        if row.record.final is not (row.relay_at is None):
            yield "misreported, whether it is over"
        if (json.loads(row.args_json), json.loads(row.kwargs_json)) != ([order.number], {}):
            yield "misreported, other arguments"
        if case.is_good and json.loads(row.return_value_json) != order.number * 2:
            yield "misreported, another value"

    def _wrong_end(self, case: Case) -> Iterator[str]:
        """Return the faults of the final state: a wrong success, or a wrong failure."""
        if not case.row.record.final:
            return
        reasons = case.reasons
        if case.is_good:
            failures = failures_of(case.kind, case.order.number)
            if case.kind in LIMITS and reasons.count(FAILED_PATH) != failures:
                yield f"misreported, a success that had not failed {failures} times"
            if case.kind in RETRYING and reasons.count(RETRY_PATH) != TIMES:
                yield f"misreported, a success without {TIMES} retries"
            if case.kind in DISCARDED:
                yield "misreported, a success that was discarded"
        elif case.row.status != "FAILED":
            yield "misreported, an end that nobody asked for"
        elif reasons[-1:] == [TASK_LOST]:
            yield from self._wrongly_lost(case)
        elif not reasons or not self._ends(case, case.made):
            yield "given up by nobody who may"

    def _ends(self, case: Case, number: int) -> bool:
        """Return whether the policy ends the task after the failed attempt `number`."""
        path = case.reasons[number - 1]
        return (
            path == DISCARD_PATH
            or number >= case.limit
            or (
                case.kind == function.name
                and path != WORKER_LOST
                and gives_up(case.order.number, number)
            )
        )

    def _wrongly_lost(self, case: Case) -> Iterator[str]:
        """Return the faults of a task that failed with `TaskLostError`.

        The relay looks up a task that is READY, if its latest Cloud Task was created and no
        delivery was turned away since the latest claim. It sends other tasks again. So the failure
        is right only if Cloud Tasks gave up the Cloud Task that the record names. It was then
        dispatched as often as its queue or its own retry settings allow, and accepted in none of
        these dispatches. A dispatch counts even if it does not reach the site. If the endpoint
        creates the next attempt, each attempt has its own Cloud Task, with the same rule. This
        Cloud Task is created after the record is written, so its delivery never meets a running
        attempt.
        """
        most, row = case.most_dispatches, case.row
        if self.redelivers:
            yield "lost, and it had to be sent again"
        if most == -1:
            yield "given up by nobody who may"
        elif case.latest.count < most:
            yield f"given up, and Cloud Tasks dispatched it {case.latest.count} times only"
        if case.latest.accepted:
            yield "lost, Cloud Tasks was told to remove its latest Cloud Task"
        if case.reasons[-2:-1] == [RETRY_PATH] and "409" in case.latest.answers:
            yield "given up, and its Cloud Task came while the attempt before it ran"
        if not row.redelivery_sent or row.redelivery_turned_away:
            yield "given up, and it was the relay's to send"

    def _wrong_errors(self, case: Case) -> Iterator[str]:
        """Return the faults of the errors in the record."""
        reasons, made = case.reasons, case.made
        lost = reasons.count(TASK_LOST)
        if lost > (not case.is_good) or TASK_LOST in reasons[:-1]:
            yield "misreported, lost before its end"
        if case.row.record.final and made != len(reasons) - lost + case.is_good:
            yield f"misreported, {made} attempts"
        if made > case.limit:
            yield f"misreported, {made} attempts of {case.limit}"
        if not case.is_good:
            reasons = reasons[:-1]
        if any(self._ends(case, number) for number in range(1, len(reasons) + 1)):
            yield "went on after its end"
        failures = failures_of(case.kind, case.order.number)
        most = {
            FAILED_PATH: failures,
            RETRY_PATH: TIMES * (case.kind in RETRYING),
            DISCARD_PATH: int(case.kind in DISCARDED),
        }
        if any(case.reasons.count(path) > times for path, times in most.items()):
            yield "misreported, an error that was not raised"
        unexpected = set(case.reasons) - {*most, WORKER_LOST, TASK_LOST}
        if any(not path.startswith(DATABASE_FAULTS) for path in unexpected) or (
            unexpected and "database" not in self.ingredients
        ):
            yield f"misreported or hindered, {', '.join(unexpected)}"

    def _wrong_signals(self, case: Case) -> Iterator[str]:
        """Return the faults of `task_finished`.

        The signal is sent after the commit. A process can be killed between the two. So the signal
        is sent at most once, and exactly once if the task ended after the last kill.
        """
        ends, row = case.told.ends, case.row
        if len(ends) > 1:
            yield f"doubled, {len(ends)} ends told"
        if any(end != (row.status, case.made) for end in ends):
            yield "misreported, another end told"
        undisturbed = self._nobody_dies or (row.finished_at and row.finished_at > self.calm_at)
        if row.record.final and undisturbed and not ends:
            yield "misreported, no end told"

    def _wrong_numbers(self, case: Case) -> Iterator[str]:
        """Return the faults of the attempt numbers in the journal.

        A run that raised `Snooze` is not recorded. The next run has the same number.
        """
        for number in {run.number for run in case.runs}:
            runs = case.told.attempt(number)
            *before, latest = runs
            if any(SNOOZED not in run.at for run in before):
                yield f"doubled, attempt {number}"
            for run, following in zip(before, runs[1:], strict=True):
                yield from self._too_early(case, run, following.began)
            waited = number == case.made + 1 and case.reasons[-1:] == [TASK_LOST]
            if not 1 <= number <= case.made and not (waited and SNOOZED in latest.at):
                yield f"misreported, attempt {number} is not recorded"

    def _wrong_attempts(self, case: Case) -> Iterator[str]:
        """Return the differences between the record of a task and the journal of its runs.

        A killed runner writes no more events. So the journal may lack an event only if the record
        says that the runner was lost, or if the database failed before the function began.
        """
        errors = errors_of(case.row)
        for number in range(1, case.made + 1):
            run = next(reversed(case.told.attempt(number)), None)
            at = run.at if run else {}
            if number > len(errors):
                if case.is_good and RETURNED not in at:
                    yield f"misreported, attempt {number} did not return"
                continue
            path, text = errors[number - 1]
            following = min((r.began for r in case.told.attempt(number + 1)), default=math.inf)
            if COMMITTED in at:
                yield f"misreported, attempt {number} was committed, and not {path}"
            if path == WORKER_LOST:
                if following < lease_end(text):
                    yield f"doubled, attempt {number} had its lease when the next one began"
                continue
            if not path.startswith(DATABASE_FAULTS) and RAISED + path not in at:
                yield f"misreported, attempt {number} did not raise {path}"
            if RETURNED in at and case.kind not in ATOMIC | LEAVING:
                yield f"misreported, attempt {number} returned, and not {path}"
            if run and (case.kind not in RETRYING or path == RETRY_PATH):
                yield from self._too_early(case, run, following)

    def _too_early(self, case: Case, run: Run, following: float) -> Iterator[str]:
        """Return the fault of a next attempt that came before its time.

        After a move of the emulator's clock, the library takes the time of Cloud Tasks from the
        due time of a delivery, which can be long before the delivery. So later runs are not
        checked.
        """
        wait = WAITS.get(case.kind, 0.0)
        if any(moved < run.last for moved, _ in self.moves):
            return
        ahead = sum(seconds for moved, seconds in self.moves if moved < following)
        if following + ahead < run.last + wait:
            early = run.last + wait - following - ahead
            yield f"too early by {early:.2f} s after attempt {run.number}"

    @property
    def _nobody_dies(self) -> bool:
        """Whether this storm kills nothing, so that only a bug can cause a lost lease."""
        return not {"kills", "closing", "database"} & set(self.ingredients)


@attrs.define
class Watch:
    """Compares successive states of the records. A task that has ended must not change.

    Attributes:
        faults: the changes after an end.
    """

    faults: list[str] = attrs.field(factory=list)
    _ends: dict[str, Mapping[str, object]] = attrs.field(factory=dict)

    FIELDS = ("status", "attempt_count", "failure", "finished_at", "claim_token", "relay_at")

    def look(self, rows: Sequence[StoredTask]) -> None:
        """Compare the records with their earlier states."""
        for row in rows:
            now = {name: getattr(row, name) for name in self.FIELDS}
            is_over = row.status not in {"READY", "RUNNING"}
            end = self._ends.setdefault(row.task_id, now) if is_over else None
            known = self._ends.get(row.task_id)
            if known is not None and end != now:
                self.faults.append(f"misreported, an end that was none: {known}, then {now}")
            if not is_over and row.finished_at is not None:
                self.faults.append(f"misreported, finished and not over: {row.task_id}, {now}")


def lease_end(text: str) -> float:
    """Return the end of a lost runner's lease, in seconds since the epoch, from its error."""
    found = re.search(r"Its lease ended at (\S+ \S+), and it had reported nothing", text)
    assert found, text
    return datetime.fromisoformat(found[1]).timestamp()


def errors_of(row: StoredTask) -> list[tuple[str, str]]:
    """Return the class path and the traceback of each error of a task."""
    return [(error.exception_class_path, error.traceback) for error in row.record.errors]


def is_good(row: StoredTask) -> bool:
    """Return whether the task has succeeded."""
    return bool(row.status == "SUCCESSFUL")


def tally(orders: Collection[Order], rows: Mapping[str, StoredTask]) -> Tally[str]:
    """Return the number of successful tasks of each kind."""
    good = [order for order in orders if order.task_id in rows and is_good(rows[order.task_id])]
    return Tally(order.kind for order in good)
