"""Functions that are called periodically."""

import threading

import pytest
from django_tasks_cloud_tasks.adapters.heartbeat import Heartbeat

PATIENCE = 20


def test_a_beat_is_called_until_its_context_ends() -> None:
    heartbeat, third = Heartbeat(), threading.Event()
    called: list[None] = []

    def beat() -> None:
        called.append(None)
        if len(called) == 3:
            third.set()

    with heartbeat.every(0.01, beat):
        assert third.wait(PATIENCE)
    after = len(called)
    other = threading.Event()
    with heartbeat.every(0.05, other.set):
        assert other.wait(PATIENCE)
    assert len(called) <= after + 1, "one may have been under way"


def test_a_beat_that_fails_is_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heartbeat, other = Heartbeat(), threading.Event()
    failures: list[None] = []

    def fail() -> None:
        failures.append(None)
        if len(failures) == 2:
            other.set()
        raise OSError("away")

    with heartbeat.every(0.01, fail):
        assert other.wait(PATIENCE)
    assert "A heartbeat failed" in caplog.text


def test_a_beat_can_be_called_early() -> None:
    heartbeat, called = Heartbeat(), threading.Event()
    with heartbeat.every(3600, called.set) as beat:
        heartbeat.hurry(beat)
        assert called.wait(PATIENCE)


def test_a_heartbeat_thread_that_could_not_start_is_started_by_the_next_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heartbeat, called = Heartbeat(), threading.Event()

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with (
        monkeypatch.context() as patch,
        pytest.raises(RuntimeError, match="can't start"),
    ):
        patch.setattr(threading.Thread, "start", fail)
        heartbeat.every(0.01, called.set).__enter__()
    with heartbeat.every(0.01, called.set):
        assert called.wait(PATIENCE)
