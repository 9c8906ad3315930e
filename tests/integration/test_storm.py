"""Everything that can die dies, again and again, and nothing is lost, doubled or wrong.

Orders are placed in transactions, some of which are rolled back, and their tasks go into queues of
endless, three, and one attempt; some leave transactions open. Meanwhile SIGKILL hits the workers of
gunicorn, the relays, the process that places the orders, and the emulator, which is away for a
moment then; the site closes for seconds, the database crashes and starts again (SQLite: is locked
for a while), and the emulator delivers twice, drops answers, refuses and delays. On PostgreSQL each
worker has a pool with fewer connections than threads. At the end every committed order's task has
run or ended as its queue says, what an atomic task did is there exactly once, every result is
right, and nothing ran that was rolled back.

STORM_SEED=7 repeats the decisions of a run (not its timing: that is the machine's);
STORM_ORDERS=1000 makes it a longer one.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.db import InterfaceError, OperationalError, connections
from django_tasks_cloud_tasks import StoredTask
from django_tasks_cloud_tasks.core.records import TASK_CANCELLED
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from tests import mariadb, postgres
from tests.integration.test_emulator_program import MODULE
from tests.integration.test_servers import ROOT
from tests.models import Counter, Mark, Order
from tests.storm.tasks import ATOMIC, KINDS, QUEUES

LOCATION = "projects/storm/locations/sea"
VICTIMS = ["worker"] * 3 + ["relay", "enqueuer", "emulator", "site", "database"]
# Seconds for everything to end, once nobody is killed any more. What a queue of one attempt has
# given up for a lost runner is sent again after one minute, and after two more.
CALM = 300.0


class Program:
    """A program that is killed and started again."""

    process: subprocess.Popen[bytes] | None = None

    def __init__(self, *command: str, log: Path, environ: dict[str, str] | None = None) -> None:
        self.command = command
        self.environ = environ
        self.log = log

    def start(self, *more: str) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.command, *more], env=self.environ, cwd=ROOT, stdout=output, stderr=output
            )

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None


class Emulator(Program):
    """The emulator, with a memory that outlives it, on the port that it got at first."""

    def begin(self, folder: Path, seed: int) -> str:
        chaos = f"seed={seed},duplicate=0.2,drop=0.15,refuse=0.05,delay=0.2,longest_delay=0.3"
        self.arguments = ["--state", str(folder / "emulator"), "--chaos", chaos]
        self.start("--port", "0", *self.arguments)
        self.address = self._greeting()
        with self.client() as client:
            # Retries come soon, so that the storm is over soon.
            for queue, attempts in QUEUES.items():
                retry = {"max_backoff": {"seconds": 1}, "max_attempts": attempts}
                name = f"{LOCATION}/queues/{queue}"
                client.create_queue(parent=LOCATION, queue={"name": name, "retry_config": retry})
        return self.address

    def again(self) -> None:
        self.start("--port", self.address.rpartition(":")[2], *self.arguments)

    @contextmanager
    def client(self) -> Iterator[Any]:
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(20)
            yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))

    def _greeting(self) -> str:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            found = re.search(r" on (127\.0\.0\.1:\d+)\.", self.log.read_text())
            if found:
                return found[1]
            assert not self.ended, self.log.read_text()
        raise AssertionError("the emulator said nothing")


class Site(Program):
    """gunicorn, which can close and open again."""

    def open(self, address: str) -> None:
        self.start()
        host, _, port = address.partition(":")
        until = time.monotonic() + 20
        while True:
            with socket.socket() as knocking:
                if knocking.connect_ex((host, int(port))) == 0:
                    return
            assert not self.ended, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)  # nothing tells that it listens but that it does

    def close(self) -> None:
        """End the master and its workers, at once."""
        assert self.process is not None
        workers = self.workers()
        self.end()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def workers(self) -> list[int]:
        assert self.process is not None
        master = self.process.pid
        return [int(p) for p in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def lasting_port() -> int:
    """A free port that no connection is given by chance while the site is closed."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


class Storm:
    """The site, its emulator, its relays, its customers, and what befalls them."""

    def __init__(self, database: str, folder: Path, seed: int, orders: int) -> None:
        self.database = database
        self.folder = folder
        self.seed = seed
        self.orders = orders
        self.draw = random.Random(seed)
        self.killed: Tally[str] = Tally()
        self.lives = 0

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Everything is up."""
        entry = {
            name: str(value) if name == "NAME" else value
            for name, value in connections.settings[self.database].items()
            if name in {"ENGINE", "NAME", "USER", "HOST", "OPTIONS"}
        }
        self.entry = entry
        if "postgresql" in entry["ENGINE"]:
            entry["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 3, "timeout": 10}}
        own = {"STORM_DATABASE": json.dumps(entry)}
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "tests.storm.settings",
            "PYTHONUNBUFFERED": "1",
        }
        with ExitStack() as stack:
            self.emulator = Emulator(
                *(*MODULE, "--host", "127.0.0.1"), log=self.folder / "emulator.log"
            )
            stack.callback(self.emulator.end)
            own["STORM_EMULATOR"] = self.emulator.begin(self.folder, self.seed)
            # Its tasks enqueue others: it must know its own address before it starts.
            self.address = f"127.0.0.1:{lasting_port()}"
            own["STORM_HANDLER"] = f"http://{self.address}"
            gunicorn = [
                *(sys.executable, "-m", "gunicorn", "tests.wsgi:application"),
                *("--bind", self.address, "--workers", "3", "--threads", "4"),
                "--no-control-socket",
            ]
            self.site = Site(*gunicorn, environ=environ | own, log=self.folder / "gunicorn.log")
            self.site.open(self.address)
            stack.callback(self.site.close)
            relay = (sys.executable, "-m", "django", "cloudtasks_relay", "--interval", "0.2")
            enqueuer = (sys.executable, "-m", "tests.storm.enqueuer")
            self.relays = [
                Program(*relay, environ=environ | own, log=self.folder / f"relay-{number}.log")
                for number in range(2)
            ]
            self.enqueuer = Program(
                *enqueuer, environ=environ | own, log=self.folder / "enqueuer.log"
            )
            for program in (*self.relays, self.enqueuer):
                stack.callback(program.end)
            for program in self.relays:
                program.start()
            yield

    def rage(self) -> None:
        """Until enough is ordered, and everybody was hit, kill one and then another."""
        deck: list[str] = []
        while self._is_too_little() or set(self.killed) != set(VICTIMS):
            if self.enqueuer.ended:
                self.lives += 1
                self.enqueuer.start(f"{self.seed}/{self.lives}", str(self.orders))
            time.sleep(self.draw.uniform(0.3, 1.0))  # the storm's own pace
            deck = deck or self.draw.sample(VICTIMS, len(VICTIMS))
            victim = deck.pop()
            self.killed[victim] += 1
            match victim:
                case "worker":
                    if workers := self.site.workers():
                        with suppress(ProcessLookupError):
                            os.kill(self.draw.choice(workers), signal.SIGKILL)
                case "site":
                    self.site.close()
                    time.sleep(self.draw.uniform(0.5, 4.0))  # a deploy that went wrong
                    self.site.open(self.address)
                case "database":
                    self._trouble_the_database()
                case "relay":
                    relay = self.draw.choice(self.relays)
                    relay.end()
                    relay.start()
                case "enqueuer":
                    self.enqueuer.end()
                case "emulator":
                    self.emulator.end()
                    time.sleep(self.draw.uniform(0.2, 2.0))  # Cloud Tasks is away
                    self.emulator.again()
        self.enqueuer.end()

    def _is_too_little(self) -> bool:
        """Whether too few orders are committed, or a kind is missing, for all one can tell."""
        try:
            orders = Tally(Order.objects.using(self.database).values_list("kind", flat=True))
        except (OperationalError, InterfaceError):
            connections[self.database].close()
            return True
        return orders.total() < self.orders or set(orders) != set(KINDS)

    def _trouble_the_database(self) -> None:
        connections[self.database].close()
        if "postgresql" in self.entry["ENGINE"]:
            postgres.restart(self.entry)
        elif "mysql" in self.entry["ENGINE"]:
            mariadb.restart(self.entry)
        else:
            with closing(sqlite3.connect(self.entry["NAME"], isolation_level=None)) as other:
                other.execute("PRAGMA busy_timeout = 20000")
                other.execute("BEGIN IMMEDIATE")
                time.sleep(self.draw.uniform(1.0, 2.5))  # for longer than a lease, at times
                other.execute("ROLLBACK")

    def report(self) -> str:
        """What happened, in numbers."""
        rolled_back = (self.folder / "enqueuer.log").read_text().count("rolled back\n")
        attempts = (self.folder / "emulator.log").read_text().count("attempt started")
        killed = ", ".join(f"{n} {what}" for what, n in self.killed.items())
        return f"{rolled_back} rolled back; {attempts} attempts by the emulator; killed: {killed}"


@pytest.mark.parametrize(
    ("database", "orders"),
    [("sqlite_file", 100), ("postgres_cluster", 250), ("mariadb_server", 250)],
    indirect=["database"],
    ids=["sqlite", "postgres", "mariadb"],
)
def test_a_storm(
    database: str, orders: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("STORM_SEED") or random.SystemRandom().randrange(10**6))
    storm = Storm(database, tmp_path, seed, int(os.environ.get("STORM_ORDERS") or orders))
    for kind in ATOMIC:
        Counter.objects.using(database).create(name=kind)
    try:
        with storm.gathering():
            storm.rage()
            settle(database)
            judgement = judge(database)
        with capsys.disabled():
            vendor = connections[database].vendor
            print(f"\nStorm {seed} on {vendor}: {judgement}; {storm.report()}.")
    finally:
        for model in (Order, Mark, Counter):
            model.objects.using(database).all().delete()


def settle(database: str) -> None:
    """Wait until every order's task has ended, as well as its queue lets it."""
    until = time.monotonic() + CALM
    while True:
        orders = dict(Order.objects.using(database).values_list("task_id", "queue"))
        rows = {row.task_id: row for row in StoredTask.objects.using(database)}
        waiting = {
            key: told(rows[key], queue) if key in rows else "no record"
            for key, queue in orders.items()
            if key not in rows or not has_ended(rows[key], queue)
        }
        if not waiting:
            return
        assert time.monotonic() < until, f"{len(waiting)} did not end: {list(waiting.items())[:5]}"
        time.sleep(0.2)  # nothing tells of it but the rows


def told(row: StoredTask, queue: str) -> str:
    """What is known of a task that has not ended."""
    return (
        f"{row.status} in {queue}, of {row.task_path}: lease until {row.lease_expires_at}, looked "
        f"at {row.relay_at}, sent {row.sent}, Cloud Tasks made anew {row.dispatch}, "
        f"{row.relay_error}, now {datetime.now(UTC)}"
    )


def has_ended(row: StoredTask, queue: str) -> bool:
    """Whether nothing more is to happen to a task for now.

    A queue of few attempts may give a task up before it has ever run (it is looked at again in a
    day), or after an attempt that failed; but never one whose runner died.
    """
    if row.status == "SUCCESSFUL":
        return True
    if QUEUES[queue] == -1:
        return False
    assert row.relay_at is not None, "it is forgotten"
    a_day_ahead = row.relay_at - datetime.now(UTC) > timedelta(hours=12)
    return row.status in {"READY", "FAILED"} and a_day_ahead


def judge(database: str) -> str:
    """Hold the ends against the orders; a summary."""
    orders = {order.task_id: order for order in Order.objects.using(database)}
    rows = {row.task_id: row for row in StoredTask.objects.using(database)}
    marks = Tally(Mark.objects.using(database).values_list("name", flat=True))
    counters = dict(Counter.objects.using(database).values_list("name", "value"))
    assert set(rows) == set(orders), "recorded what was not ordered, or the other way round"
    done = {key for key, row in rows.items() if row.status == "SUCCESSFUL"}
    assert done <= set(marks) <= set(orders), "ran what was not ordered, or did not run what was"
    kinds = Tally(order.kind for order in orders.values())
    attempts = failures = 0
    for key, order in orders.items():
        row = rows[key]
        assert json.loads(row.arguments_json) == {"args": [order.number], "kwargs": {}}
        made, errors = json.loads(row.worker_ids_json), json.loads(row.errors_json)
        assert TASK_CANCELLED not in [path for path, _ in errors]
        assert row.final is (key in done)
        assert len(made) == len(errors) + (key in done), "an error for each attempt that failed"
        if key in done:
            assert json.loads(row.return_value_json) == order.number * 2
        if order.kind in ATOMIC:
            wanted = int(key in done)
            assert marks[key] == wanted, f"{order}, {row.status}, took effect {marks[key]} times"
        attempts, failures = attempts + len(made), failures + len(errors)
    succeeded = Tally(order.kind for key, order in orders.items() if key in done)
    assert counters == {kind: succeeded[kind] for kind in ATOMIC}
    assert set(kinds) == set(KINDS), "a kind that nobody ordered"
    again = sum(marks[key] - 1 for key in done if orders[key].kind not in ATOMIC)
    given_up = Tally(rows[key].status for key in set(orders) - done)
    return (
        f"{len(orders)} orders ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), "
        f"{attempts} recorded attempts, {failures} of them failed or died; atomic effects exactly "
        f"once, plain ones {again} times too often; given up by queues of few attempts: "
        f"{', '.join(f'{count} {status}' for status, count in given_up.items()) or 'none'}"
    )
