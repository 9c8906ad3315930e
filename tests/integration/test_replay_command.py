"""`manage.py cloudtasks_replay`: what it chooses, replays and says."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.tasks.signals import task_enqueued
from django.test import override_settings
from django_tasks_cloud_tasks import StoredTask
from django_tasks_cloud_tasks.core.errors import QueueNotFoundError

from tests import recorded_tasks
from tests.integration.failures import DOES, VALUE_ERROR, failed_task, recording_once
from tests.integration.recording import Site

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site() -> Iterator[Site]:
    with recording_once("default") as made:
        yield made


class DeclinedError(Exception):
    """Of this module."""


def run(*arguments: str) -> list[str]:
    """The lines that the command wrote."""
    out = io.StringIO()
    call_command("cloudtasks_replay", *arguments, stdout=out)
    return out.getvalue().splitlines()


def refused(*arguments: str) -> tuple[list[str], str, int]:
    """The lines that the command wrote, its error, and its exit status."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("cloudtasks_replay", *arguments, stdout=out)
    return out.getvalue().splitlines(), str(caught.value), caught.value.returncode


def replayed(site: Site, *keys: str) -> list[bool]:
    return [bool(site.record(key).replayed_as) for key in keys]


def test_it_replays_all_failures_and_says_which(site: Site) -> None:
    one, two = failed_task(site, "a"), failed_task(site, "b")
    other = failed_task(site, "c", error=KeyError())
    assert run("--all") == [
        f"{DOES}: 1 task failed with builtins.KeyError from 2026-11-22 12:00:02 to "
        "2026-11-22 12:00:02 UTC.",
        f"{DOES}: 2 tasks failed with {VALUE_ERROR} from 2026-11-22 12:00:00 to "
        "2026-11-22 12:00:01 UTC.",
        "Replayed 3 of 3.",
    ]
    assert replayed(site, one, two, other) == [True] * 3
    assert len(site.queue.requests) == 3
    assert refused("--all")[1] == "No task has failed that could be replayed."
    assert run("--all", "--again")[-1] == "Replayed 3 of 3."
    assert len(site.queue.requests) == 6


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["--task", DOES], [True, True, False]),
        (["--task", f"{DOES}_async"], [False, False, True]),
        (["--exception", "ValueError"], [True, False, True]),
        (["--exception", VALUE_ERROR], [True, False, True]),
        (["--exception", "DeclinedError"], [False, True, False]),
        (["--exception", "ValueError", "--task", DOES], [True, False, False]),
        (["--since", "90s"], [False, True, True]),
        (["--since", "2h"], [True, True, True]),
        (["--since", "90s", "--task", DOES], [False, True, False]),
    ],
)
def test_it_chooses_by_task_exception_and_age(
    site: Site, arguments: list[str], chosen: list[bool]
) -> None:
    first = failed_task(site, "a")
    site.wait(80)
    second = failed_task(site, "b", error=DeclinedError())
    third = failed_task(site, "c", task=recorded_tasks.does_async)
    site.wait(9)
    assert run(*arguments)[-1] == f"Replayed {sum(chosen)} of {sum(chosen)}."
    assert replayed(site, first, second, third) == chosen


def test_a_dry_run_replays_nothing(site: Site) -> None:
    key = failed_task(site)
    lines = run("--all", "--dry-run")
    assert lines[0].startswith(f"{DOES}: 1 task failed with {VALUE_ERROR} from ")
    assert lines[1:] == ["Nothing was replayed, because of --dry-run."]
    assert replayed(site, key) == [False]


def test_what_fails_again_meanwhile_is_not_replayed(site: Site) -> None:
    failed_task(site, "a")
    failed_task(site, "b")
    between: list[str] = []

    def fail_again(**_: Any) -> None:
        task_enqueued.disconnect(fail_again)
        between.append(failed_task(site, "c"))

    task_enqueued.connect(fail_again)
    assert run("--all")[-1] == "Replayed 2 of 2."
    assert replayed(site, *between) == [False]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "Say what to replay: --task, --exception, --since or --all."),
        (["--dry-run", "--rate", "20/s"], "Say what to replay"),
        (["--all", "--task", DOES], "--all cannot be combined"),
        (["--since", "2 hours"], "'2 hours' is not an age: write a number and s, m, h, d or w"),
        (["--all", "--rate", "20"], "'20' is not a rate: write a number and /s or /m"),
        (["--all", "--rate", "0/s"], "'0/s' is not a rate"),
    ],
)
def test_options_that_make_no_sense_are_explained(
    site: Site, arguments: list[str], part: str
) -> None:
    failed_task(site)
    lines, error, status = refused(*arguments)
    assert part in error
    assert (lines, status) == ([], 1)
    assert site.queue.requests == []


def test_if_nothing_matches_it_names_what_there_is(site: Site) -> None:
    failed_task(site, "a")
    failed_task(site, "b")
    _, error, status = refused("--task", "shop.tasks.gone")
    assert error == (
        f"No failure matches. There are these failures: {DOES} with {VALUE_ERROR} (2)."
    )
    assert status == 1
    for number in range(6):
        StoredTask.objects.create(
            task_id=str(number),
            task_path=f"t{number}",
            status="FAILED",
            failure="E",
            finished_at=site.now,
            backend="stored",
        )
    assert refused("--task", "gone")[1].endswith("t4 with E (1); and 2 more.")


def test_without_a_backend_that_keeps_results_it_says_so(site: Site) -> None:
    with override_settings(TASKS={}):
        assert "No backend in TASKS keeps results" in refused("--all")[1]


def test_it_says_each_kind_of_reason_once_and_its_status_is_1(site: Site) -> None:
    bad = [failed_task(site, name) for name in "abc"]
    StoredTask.objects.filter(pk__in=bad).update(task_path="tests.recorded_tasks.gone")
    good = failed_task(site, "d")
    lines, error, status = refused("--all")
    (told,) = [line for line in lines if line.startswith("Could not replay")]
    assert told.startswith("Could not replay 3 tasks. TaskResultDoesNotExist: The task ")
    assert "gone" in told
    assert "Replayed 1 of 4." in lines
    assert (error, status) == ("Some tasks were not replayed, or are left to the relay.", 1)
    assert replayed(site, good, *bad) == [True, False, False, False]


def test_what_cloud_tasks_refuses_is_left_to_the_relay(site: Site) -> None:
    for name in "ab":
        failed_task(site, name)
    site.queue.down = QueueNotFoundError("no such queue")
    lines, _, status = refused("--all")
    assert lines[-2:] == [
        "Replayed 2 of 2.",
        "Left to the relay: 2 tasks. QueueNotFoundError: no such queue",
    ]
    assert status == 1


def test_it_stops_when_cloud_tasks_does_not_answer(site: Site) -> None:
    keys = [failed_task(site, name) for name in "abc"]
    site.queue.go_down()
    lines, error, status = refused("--all")
    assert lines[-2:] == [
        "Replayed 1 of 3.",
        "Left to the relay: 1 task. ServiceUnavailableError: Cloud Tasks does not answer",
    ]
    assert error == (
        "Stopped: Cloud Tasks does not answer. Tasks left unchanged: 2. The same command goes on."
    )
    assert status == 1
    assert replayed(site, *keys) == [True, False, False]
    site.queue.down = None
    site.wait(10)
    assert run("--all")[-1] == "Replayed 2 of 2."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_complete_replays_and_the_same_command_goes_on(
    site: Site, number: signal.Signals
) -> None:
    keys = [failed_task(site, name) for name in "abc"]
    before = signal.getsignal(number)

    def interrupt(**_: Any) -> None:
        task_enqueued.disconnect(interrupt)
        signal.raise_signal(number)

    task_enqueued.connect(interrupt)
    lines, error, status = refused("--all", "--rate", "1/m")
    assert lines[-1] == "Replayed 1 of 3."
    assert error == "Interrupted. Tasks left unchanged: 2. The same command goes on."
    assert status == 130
    assert signal.getsignal(number) is before
    assert replayed(site, *keys) == [True, False, False]
    assert site.record(site.record(keys[0]).replayed_as).replay_of == keys[0]
    assert run("--all")[-1] == "Replayed 2 of 2."


def test_a_rate_is_kept(site: Site) -> None:
    for name in "abcd":
        failed_task(site, name)
    began = time.monotonic()
    run("--all", "--rate", "20/s")
    assert time.monotonic() - began >= 3 / 20
    failed_task(site, "e")
    assert run("--all", "--rate", "1/m")[-1] == "Replayed 1 of 1.", "nothing to wait for"
    assert time.monotonic() - began < 60


def test_progress_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from django_tasks_cloud_tasks.django_integration.management.commands import cloudtasks_replay

    monkeypatch.setattr(cloudtasks_replay, "_PROGRESS", 0.0)
    for name in "ab":
        failed_task(site, name)
    assert run("--all")[-3:] == ["Replayed 1 of 2.", "Replayed 2 of 2.", "Replayed 2 of 2."]
