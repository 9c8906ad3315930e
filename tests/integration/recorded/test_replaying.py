"""Tasks that have ended are enqueued again as new tasks, once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import attrs
import pytest
from django.tasks import task_backends
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django_tasks_cloud_tasks.core.errors import QueueNotFoundError, ServiceUnavailableError
from django_tasks_cloud_tasks.core.failures import FailureSelection
from django_tasks_cloud_tasks.core.lifecycle import ReplayRefusal
from django_tasks_cloud_tasks.core.records import State, TaskRecord
from django_tasks_cloud_tasks.django_integration.operating.replaying import (
    Outcome,
    Tally,
    replay_failures,
    replay_task,
)

from tests import recorded_tasks
from tests.integration.failures import DOES, VALUE_ERROR, failed_task, recording_once
from tests.integration.recording import START, Site, before_replacing, hearing, relay

pytestmark = pytest.mark.django_db(transaction=True)

GROUP = FailureSelection(task_path=DOES, failure=VALUE_ERROR)


@pytest.fixture(params=["memory", "database"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with recording_once("default" if request.param == "database" else None) as made:
        yield made


def replayed(site: Site, key: str, **more: Any) -> str:
    outcome = replay_task(site.record(key), **more)
    assert outcome == Outcome(outcome.replayed_as)
    return outcome.replayed_as


def test_a_replay_is_a_new_task_with_the_same_arguments_queue_and_priority(site: Site) -> None:
    due = START + timedelta(seconds=5)
    key = failed_task(site, queue_name="mail", priority=7, run_after=due)
    before = site.record(key)
    with hearing(task_enqueued, of=lambda result: result.id) as told:
        new = replayed(site, key)
    assert told == [new]
    (request,) = site.queue.requests
    assert (request.task_id, request.queue.queue) == (new, "mail")
    assert request.schedule_time is None, "the time of the original has passed"
    assert site.record(key) == attrs.evolve(before, replayed_as=new)
    copy = site.record(new)
    assert (copy.replay_of, copy.replayed_as, copy.state) == (key, "", State.READY)
    assert copy.payload == attrs.evolve(
        before.payload, task_id=new, enqueued_at=copy.payload.enqueued_at
    )
    assert site.deliver()[0] == 200
    assert site.record(new).state is State.SUCCESSFUL
    assert site.record(new).replay_of == key
    assert site.record(key).state is State.FAILED


def test_a_task_is_replayed_once_unless_somebody_wants_it_again(site: Site) -> None:
    key = failed_task(site)
    first = replayed(site, key)
    assert replay_task(site.record(key)) == Outcome(refusal=ReplayRefusal.REPLAYED)
    assert len(site.queue.requests) == 1
    second = replayed(site, key, again=True)
    assert site.record(key).replayed_as == second
    assert site.record(first).replay_of == site.record(second).replay_of == key


def test_a_task_that_waits_is_not_replayed(site: Site) -> None:
    key = recorded_tasks.does.enqueue("a").id
    assert replay_task(site.record(key)) == Outcome(refusal=ReplayRefusal.UNFINISHED)
    assert len(site.queue.requests) == 1


@pytest.mark.parametrize("again", [False, True])
def test_of_two_replays_at_once_one_makes_a_task(
    site: Site, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    key = failed_task(site)
    winners: list[str] = []
    before_replacing(site, monkeypatch, lambda: winners.append(replayed(site, key, again=again)))
    seen = site.record(key)
    assert replay_task(seen, again=again) == Outcome(refusal=ReplayRefusal.OVERTAKEN)
    assert site.record(key).replayed_as == winners[0]
    assert [r.task_id for r in site.queue.requests] == winners


def test_a_crash_in_the_middle_leaves_no_replay(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = failed_task(site)
    before = site.record(key)
    add = site.store.add

    def add_and_crash(record: TaskRecord) -> None:
        add(record)
        raise SystemExit

    monkeypatch.setattr(site.store, "add", add_and_crash)
    with pytest.raises(SystemExit):
        replay_task(before)
    monkeypatch.undo()
    assert site.record(key) == before
    assert site.queue.requests == []
    assert relay() == (0, 0), "there is no other record"
    replayed(site, key)


def test_a_crash_before_the_task_is_sent_leaves_it_to_the_relay(site: Site) -> None:
    key = failed_task(site)
    site.queue.down = SystemExit()
    with pytest.raises(SystemExit):
        replay_task(site.record(key))
    site.queue.down = None
    new = site.record(key).replayed_as
    assert site.record(new).replay_of == key
    site.wait(60)
    assert relay() == (1, 0)
    assert [r.task_id for r in site.queue.requests] == [new]


def test_a_replay_that_cloud_tasks_does_not_take_waits_for_the_relay(site: Site) -> None:
    key = failed_task(site)
    site.queue.down = QueueNotFoundError("no such queue")
    outcome = replay_task(site.record(key))
    assert isinstance(outcome.error, QueueNotFoundError)
    assert site.record(outcome.replayed_as).relay.error == "no such queue"
    assert not outcome.unanswered


def test_a_task_that_the_site_does_not_have_any_more_is_not_replayed(site: Site) -> None:
    key = failed_task(site)
    record = site.record(key)
    gone = attrs.evolve(
        record, payload=attrs.evolve(record.payload, task_path="tests.recorded_tasks.gone")
    )
    with pytest.raises(TaskResultDoesNotExist, match="gone"):
        replay_task(gone)
    assert site.record(key) == record


def replay_all(site: Site, selection: FailureSelection = GROUP) -> Tally:
    """Replay until nothing is left, or Cloud Tasks does not answer."""
    tally = Tally()
    for place, outcome in replay_failures(site.store, selection):
        tally.add(place, outcome)
        if tally.silent:
            break
    return tally


def test_a_group_is_replayed_the_oldest_first(site: Site) -> None:
    keys = [failed_task(site, name) for name in "abc"]
    tally = replay_all(site)
    assert list(tally.made) == keys
    assert [r.task_id for r in site.queue.requests] == list(tally.made.values())
    assert tally.handled == 3
    assert tally.last
    assert tally.last.task_id == keys[-1]
    assert replay_all(site).made == {}, "they were replayed"
    again = replay_all(site, attrs.evolve(GROUP, replayed=True))
    assert list(again.made) == keys


def test_a_group_is_bounded_by_the_time_of_the_last_failure_that_was_seen(site: Site) -> None:
    seen = failed_task(site, "a")
    (group,) = site.store.failure_groups()
    failed_task(site, "b")
    tally = replay_all(site, attrs.evolve(GROUP, until=group.last))
    assert list(tally.made) == [seen]


def test_the_first_silence_of_cloud_tasks_is_the_last(site: Site) -> None:
    keys = [failed_task(site, name) for name in "abc"]
    site.queue.go_down()
    tally = replay_all(site)
    assert (tally.silent, list(tally.made), tally.handled) == (True, keys[:1], 1)
    assert tally.waiting.keys() == {"ServiceUnavailableError"}
    assert site.store.count_failures(GROUP) == 2
    at_once = replay_all(site)
    assert (at_once.silent, at_once.made, at_once.last) == (True, {}, None)
    site.queue.down = None
    site.wait(10)
    assert list(replay_all(site).made) == keys[1:]


def test_kinds_of_errors_are_counted_with_one_example(site: Site) -> None:
    for name in "ab":
        failed_task(site, name)
    site.queue.down = QueueNotFoundError("no such queue")
    tally = replay_all(site)
    (fault,) = tally.waiting.values()
    assert (fault.example, fault.count) == ("QueueNotFoundError: no such queue", 2)
    assert not tally.failed


def test_a_task_that_others_replay_meanwhile_is_left_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = failed_task(site)
    before_replacing(site, monkeypatch, lambda: replayed(site, key))
    tally = replay_all(site)
    assert (tally.made, tally.left_out, tally.failed) == ({}, 1, {})


def test_nothing_is_replayed_while_cloud_tasks_does_not_answer(site: Site) -> None:
    key = failed_task(site)
    site.queue.go_down()
    recorded_tasks.does.enqueue("b")
    backend: Any = task_backends["stored"]
    assert backend.configuration.queue.is_silent
    with pytest.raises(ServiceUnavailableError):
        replay_task(site.record(key), unless_silent=True)
    assert site.record(key).replayed_as == ""
