"""The controls of the emulator: the clock, the reset, chaos and the state file."""

import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from django_tasks_cloud_tasks.core.errors import ConfigurationError
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from django_tasks_cloud_tasks.emulator.state.targets import HttpTarget
from django_tasks_cloud_tasks.emulator.storage import Storage
from django_tasks_cloud_tasks.emulator.ways_out.chaos import Chaos
from google.cloud import tasks_v2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.emulator_program import MODULE, emulator_program
from tests.integration.grpc_calls import client_over
from tests.integration.http_calls import connect, post
from tests.integration.http_servers import handler
from tests.integration.paths import ROOT
from tests.integration.refusals import LOCATION, QUEUE, START, refusal

# The clock


@pytest.mark.parametrize("clock", ["standing still", "the machine's"])
def test_the_clock_is_moved_over_http_and_due_tasks_are_delivered(clock: str) -> None:
    def make() -> Emulator:
        still = clock == "standing still"
        return Emulator(clock=ManualClock() if still else None, create_queues=True)

    with (
        handler() as (url, called),
        BackgroundEmulator(make) as background,
        grpc.insecure_channel(background.address) as channel,
    ):
        before = post(background.address, "/emulator/clock", {"advance": 0}).document["now"]
        tomorrow = Timestamp(seconds=int(before) + 86_400)
        task = {"http_request": {"url": url}, "schedule_time": tomorrow}
        client_over(channel).create_task(parent=QUEUE, task=task)
        post(background.address, "/emulator/clock", {"advance": 86_000})
        assert not called.is_set()
        answer = post(background.address, "/emulator/clock", {"advance": 500})
        assert answer.status == 200
        assert called.is_set()
        assert answer.document["now"] >= before + 86_500
        assert [attempt.status for attempt in background.emulator.finished] == [200]


@pytest.mark.parametrize("still", [True, False], ids=["standing still", "the machine's"])
def test_tasks_that_wait_for_a_limit_are_done_when_the_clock_has_moved(still: bool) -> None:
    with (
        handler() as (url, _),
        BackgroundEmulator(
            lambda: Emulator(clock=ManualClock() if still else None, queues=[QUEUE])
        ) as background,
        grpc.insecure_channel(background.address) as channel,
    ):
        client = client_over(channel)
        one = {"max_concurrent_dispatches": 1}
        client.update_queue(queue={"name": QUEUE, "rate_limits": one})
        later = Timestamp(seconds=background.emulator.now() // SECOND + 3600)
        for _ in range(5):
            task = {"http_request": {"url": url}, "schedule_time": later}
            client.create_task(parent=QUEUE, task=task)
        background.call(background.emulator.advance(3700))
        assert [attempt.status for attempt in background.emulator.finished] == [200] * 5


@pytest.mark.parametrize(
    "document", [None, {}, {"advance": -1}, {"advance": "soon"}, [1], {"advance": 1e305}]
)
def test_an_invalid_document_does_not_move_the_clock(document: Any) -> None:
    with BackgroundEmulator() as background:
        assert post(background.address, "/emulator/clock", document).status == 400


def test_a_reset_deletes_everything_except_the_initial_queues() -> None:
    with (
        BackgroundEmulator(
            lambda: Emulator(clock=ManualClock(), queues=[QUEUE], create_queues=True)
        ) as background,
        grpc.insecure_channel(background.address) as channel,
    ):
        client = client_over(channel)
        for parent in (QUEUE, f"{LOCATION}/queues/other"):
            client.create_task(parent=parent, task={"http_request": {"url": "http://127.0.0.1:1"}})
        assert post(background.address, "/emulator/reset").status == 200
        assert [queue.name for queue in client.list_queues(parent=LOCATION)] == [QUEUE]
        assert list(client.list_tasks(parent=QUEUE)) == []


def test_pages_of_other_sites_cannot_change_the_emulator() -> None:
    with BackgroundEmulator() as background:
        evil = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
        for path in ("/emulator/reset", f"/v2/{LOCATION}/queues"):
            assert post(background.address, path, {}, **evil).status == 403
        own = {"Origin": f"http://{background.address}"}
        assert post(background.address, "/emulator/reset", {}, **own).status == 200


# Chaos


def test_chaos_is_the_same_for_the_same_seed() -> None:
    chaos = Chaos.parse("seed=7,duplicate=0.3,drop=0.2,refuse=0.1,delay=0.5,longest_delay=2")
    drawn = [chaos.fault_for(f"task-{n}", attempt) for n in range(1000) for attempt in (1, 2)]
    again = [chaos.fault_for(f"task-{n}", attempt) for n in range(1000) for attempt in (1, 2)]
    assert drawn == again
    share = {
        name: sum(bool(getattr(t, name)) for t in drawn) / len(drawn)
        for name in ("duplicate", "drop", "refuse", "delay")
    }
    expected = {"duplicate": 0.3, "drop": 0.2, "refuse": 0.1, "delay": 0.5}
    assert all(abs(share[name] - rate) < 0.05 for name, rate in expected.items()), share
    assert max(t.delay for t in drawn) <= 2
    other = Chaos.parse("seed=8,duplicate=0.3,drop=0.2,refuse=0.1,delay=0.5,longest_delay=2")
    assert [other.fault_for(f"task-{n}", 1) for n in range(1000)] != drawn[::2]


@pytest.mark.parametrize(
    "spec", ["fire=1", "drop", "drop=x", "drop=-1", "drop=5", "seed=1.5", "delay=nan"]
)
def test_an_invalid_chaos_specification_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError):
        Chaos.parse(spec)


@pytest.mark.parametrize(
    ("spec", "requests", "statuses"),
    [
        ("duplicate=1,drop=0,refuse=0,delay=0", 2, [200]),
        ("duplicate=0,drop=1,refuse=0,delay=0", 3, [504, 504, 504]),
        ("duplicate=0,drop=0,refuse=1,delay=0", 0, [503, 503, 503]),
        ("duplicate=0,drop=0,refuse=0,delay=1,longest_delay=0.01", 1, [200]),
    ],
)
def test_each_kind_of_chaos_affects_the_attempts(
    spec: str, requests: int, statuses: list[int]
) -> None:
    calls: list[None] = []
    with (
        handler(calls=calls) as (url, _),
        BackgroundEmulator(
            lambda: Emulator(clock=ManualClock(), queues=[QUEUE], chaos=Chaos.parse(spec))
        ) as background,
        grpc.insecure_channel(background.address) as channel,
    ):
        client = client_over(channel)
        client.update_queue(queue={"name": QUEUE, "retry_config": {"max_attempts": 3}})
        client.create_task(parent=QUEUE, task={"http_request": {"url": url}})
        background.call(background.emulator.advance(60))
        assert [attempt.status for attempt in background.emulator.finished] == statuses
        assert len(calls) == requests


# The state file


def test_a_restarted_emulator_has_the_stored_queues_and_tasks(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite3"

    def start() -> BackgroundEmulator:
        storage = Storage(file)
        clock = ManualClock(START)
        return BackgroundEmulator(lambda: Emulator(clock=clock, storage=storage))

    def seen(background: BackgroundEmulator) -> Any:
        with grpc.insecure_channel(background.address) as channel:
            client = client_over(channel)
            queues = list(client.list_queues(parent=LOCATION))
            request = {"parent": QUEUE, "response_view": tasks_v2.Task.View.FULL}
            return queues, list(client.list_tasks(request=request))

    with start() as background, grpc.insecure_channel(background.address) as channel:
        client = client_over(channel)
        wanted = {"name": QUEUE, "rate_limits": {"max_concurrent_dispatches": 3}}
        client.create_queue(parent=LOCATION, queue=wanted)
        token = {"service_account_email": "a@b", "audience": "c"}
        http = {
            "url": "http://127.0.0.1:1/x",
            "headers": {"X-Kept": "kept"},
            "body": b"\x00body",
            "oidc_token": token,
        }
        client.create_task(parent=QUEUE, task={"name": f"{QUEUE}/tasks/a", "http_request": http})
        later = Timestamp(seconds=START // SECOND + 1000, nanos=5)
        app = {"app_engine_http_request": {"relative_uri": "/y", "body": b"z"}}
        client.create_task(parent=QUEUE, task=app | {"schedule_time": later})
        client.create_task(parent=QUEUE, task={"name": f"{QUEUE}/tasks/gone"} | app)
        background.call(background.emulator.settle())
        client.pause_queue(name=QUEUE)
        client.delete_task(name=f"{QUEUE}/tasks/gone")
        other = f"{LOCATION}/queues/other"
        client.create_queue(parent=LOCATION, queue={"name": other})
        client.delete_queue(name=other)
        before = seen(background)
    with start() as background, grpc.insecure_channel(background.address) as channel:
        client = client_over(channel)
        after = seen(background)
        for old, new in zip(before[1], after[1], strict=True):
            # The state file does not keep all that the API shows of a failed attempt.
            old.last_attempt = new.last_attempt = None
            old.first_attempt = new.first_attempt = None
        assert after == before
        gone = {"name": f"{QUEUE}/tasks/gone", "http_request": {"url": "http://a/"}}
        assert refusal(lambda: client.create_task(parent=QUEUE, task=gone))[0] == "ALREADY_EXISTS"
        again = refusal(lambda: client.create_queue(parent=LOCATION, queue={"name": other}))
        assert again[0] == "FAILED_PRECONDITION"
        client.resume_queue(name=QUEUE)
        (attempt,) = background.emulator.service.dispatch(QUEUE, START + SECOND)
        assert attempt.headers()["X-CloudTasks-TaskRetryCount"] == "1"
        background.emulator.service.finish(attempt, 200, START + SECOND)


def test_a_killed_emulator_loses_no_acknowledged_task(tmp_path: Path) -> None:
    """The test kills the emulator while it creates tasks; a restarted one delivers them all."""
    file = str(tmp_path / "state.sqlite3")
    acknowledged: set[str] = set()
    bodies: list[bytes] = []
    with handler(bodies=bodies) as (url, _):
        for round_number in range(3):
            with (
                emulator_program("--auto-create-queues", "--state", file) as (process, address),
                grpc.insecure_channel(address) as channel,
            ):
                client = client_over(channel)
                if round_number == 0:
                    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
                    client.pause_queue(name=QUEUE)
                for number in range(200):
                    body = f"{round_number}-{number}"
                    task = {"http_request": {"url": url, "body": body.encode()}}
                    client.create_task(parent=QUEUE, task=task)
                    acknowledged.add(body)
                    if number == 150:
                        process.send_signal(signal.SIGKILL)
                        break
                process.wait(10)
        with emulator_program("--state", file) as (process, address):
            with grpc.insecure_channel(address) as channel:
                client = client_over(channel)
                assert client.get_queue(name=QUEUE).state == tasks_v2.Queue.State.PAUSED
                client.resume_queue(name=QUEUE)
            finished = 0
            while finished < len(acknowledged):
                line = process.stdout.readline()
                assert line, "the emulator ended"
                finished += line.endswith("answer=200\n")
    delivered = Counter(body.decode() for body in bodies)
    assert set(delivered) == acknowledged
    assert set(delivered.values()) == {1}


def state(file: Path, *queues: str, clock: ManualClock | None = None) -> BackgroundEmulator:
    storage = Storage(file)
    return BackgroundEmulator(
        lambda: Emulator(clock=clock or ManualClock(START), storage=storage, queues=queues)
    )


def test_a_queue_that_is_deleted_while_its_attempt_runs_stays_deleted(tmp_path: Path) -> None:
    leave = threading.Event()
    with handler(status=500, hold=leave) as (url, called):
        with (
            state(tmp_path / "s", QUEUE) as background,
            grpc.insecure_channel(background.address) as channel,
        ):
            client = client_over(channel)
            client.create_task(parent=QUEUE, task={"http_request": {"url": url}})
            assert called.wait(10)
            client.delete_queue(name=QUEUE)
            leave.set()
            background.call(background.emulator.settle())
        with state(tmp_path / "s") as background:
            assert background.emulator.service.queues() == []
        with state(tmp_path / "s", QUEUE) as background:
            assert [queue.name for queue in background.emulator.service.queues()] == [QUEUE]


def test_the_clock_starts_no_earlier_than_the_stored_times(tmp_path: Path) -> None:
    with state(tmp_path / "s", QUEUE) as background:
        background.call(background.emulator.advance(86_400))
        with grpc.insecure_channel(background.address) as channel:
            client_over(channel).pause_queue(name=QUEUE)
            client_over(channel).create_task(
                parent=QUEUE, task={"http_request": {"url": "http://a"}}
            )
    with state(tmp_path / "s") as background:
        assert background.emulator.now() >= START + 86_400 * SECOND


def test_an_emulator_refuses_a_state_file_that_another_program_uses(tmp_path: Path) -> None:
    first = Storage(tmp_path / "s")
    with pytest.raises(ConfigurationError, match="locked"):
        Storage(tmp_path / "s")
    first.close()
    with sqlite3.connect(tmp_path / "django") as database:
        database.execute("CREATE TABLE auth_user (id INTEGER)")
    database.close()
    with pytest.raises(ConfigurationError, match="another program or another version"):
        Storage(tmp_path / "django")


def test_a_backoff_is_limited_to_the_retention_of_tasks(tmp_path: Path) -> None:
    with (
        state(tmp_path / "s", QUEUE) as background,
        grpc.insecure_channel(background.address) as channel,
    ):
        client = client_over(channel)
        longest = Duration(seconds=300_000_000_000)
        config = {"min_backoff": longest, "max_backoff": longest}
        client.update_queue(queue={"name": QUEUE, "retry_config": config})
        client.create_task(parent=QUEUE, task={"http_request": {"url": "http://[bad/x"}})
        background.call(background.emulator.settle())
        (task,) = client.list_tasks(parent=QUEUE)
        assert task.schedule_time.timestamp() == START / SECOND + 31 * 86_400
        assert background.emulator.service.queue(QUEUE).running == 0


@pytest.mark.parametrize("content", [b"not a database at all, and long enough", None])
def test_an_invalid_state_file_is_reported_in_one_sentence(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "missing" / "state" if content is None else tmp_path / "state"
    if content:
        file.write_bytes(content * 100)
    done = subprocess.run(
        [*MODULE, "--host", "127.0.0.1", "--port", "0", "--state", str(file)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"The state file {file} cannot be")


def test_an_invalid_chaos_argument_is_reported_in_one_sentence() -> None:
    done = subprocess.run(
        [*MODULE, "--chaos", "fire=1"], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("'fire=1' is not a fault")


def test_events_are_logged_as_json() -> None:
    with subprocess.Popen(
        [*MODULE, "--host", "127.0.0.1", "--port", "0", "--log-format", "json", "--queue", QUEUE],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert started["event"] == "emulator started"
        address = started["address"]
        post(address, "/emulator/reset")
        event = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert event["event"] == "emulator reset"
    assert re.match(r"\d{4}-\d\d-\d\dT", event["time"])


def test_the_emulator_publishes_the_issuer_that_is_set() -> None:
    with (
        emulator_program("--oidc-issuer", "http://issuer.example") as (_, address),
        urllib.request.urlopen(f"http://{address}/.well-known/openid-configuration") as response,
    ):
        assert json.load(response)["issuer"] == "http://issuer.example"


def test_an_attempt_that_exceeds_its_deadline_is_logged_with_the_option_that_sets_it() -> None:
    leave, told = threading.Event(), list[dict[str, object]]()

    def log(event: str, facts: dict[str, object]) -> None:
        if event == "attempt finished":
            told.append(facts)

    with (
        handler(hold=leave) as (url, called),
        BackgroundEmulator(lambda: Emulator(queues=[QUEUE], log=log)) as running,
    ):

        async def create() -> None:
            emulator = running.emulator
            emulator.service.create_task(
                *(QUEUE, "slow", HttpTarget(url=url)),
                schedule_time=None,
                deadline=SECOND // 10,
                now=emulator.now(),
            )
            emulator.touched(QUEUE)

        running.call(create())
        assert called.wait(20)
        running.call(running.emulator.settle())
        leave.set()
    assert told[0]["answer"] == "timeout"
    assert "DISPATCH_DEADLINE in OPTIONS sets it" in str(told[0]["because"])


def test_a_closed_dashboard_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with BackgroundEmulator(lambda: Emulator(queues=[QUEUE])) as running:
        for _ in range(3):
            page = connect(running.address)
            page.sendall(b"GET /emulator/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said = page.recv(65536)
            while b"changed" not in said:
                said += page.recv(65536)
            # Reset the connection, as a browser may do when it closes a tab.
            page.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            page.close()
            for _ in range(3):
                post(running.address, f"/v2/{QUEUE}:pause")
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == []


def test_a_clock_that_was_moved_on_does_not_fall_back_when_no_task_is_left(tmp_path: Path) -> None:
    """Else the names of the tasks would stay taken for longer than a day."""
    ahead = START + 40 * 86_400 * SECOND
    storage = Storage(tmp_path / "state")
    service = Emulator(clock=ManualClock(ahead), storage=storage, queues=[QUEUE]).service
    service.create_task(
        QUEUE, "a", HttpTarget(url="http://a/"), schedule_time=None, deadline=SECOND, now=ahead
    )
    service.delete_task(f"{QUEUE}/tasks/a", ahead)
    storage.close()
    storage = Storage(tmp_path / "state")
    assert Emulator(clock=ManualClock(START), storage=storage).now() == ahead
    storage.close()
