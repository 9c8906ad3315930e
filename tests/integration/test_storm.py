"""A stress test that kills all processes repeatedly. No task may be lost, doubled or wrong.

In the first phase, a process places orders in transactions. Each order enqueues a task. Some tasks
have a retry policy, which the Cloud Task carries or the endpoint carries out. Some raise Retry,
Snooze or Discard. The test causes these failures meanwhile:

- Some transactions are rolled back, and some tasks leave transactions open.
- SIGKILL hits the workers of gunicorn, the relays, the process that places the orders, and the
  emulator. The emulator starts again after a short time.
- The site is closed for some seconds.
- The database crashes or is shut down, and starts again. SQLite is locked for a while.
- The emulator delivers tasks twice, drops responses, refuses and delays deliveries.
- The queues allow one, three or an unlimited number of attempts.
- On PostgreSQL with an even seed, each worker has a pool with fewer connections than threads.
- With a seed that is a multiple of 3, LOST_TASKS is "redeliver".

In the second phase, the test kills no processes. If no task runs and the emulator has no tasks, the
test moves the clocks of the relay and the emulator to the next time at which the relay checks a
record. If a queue has given up a task, these times are a day and a month later. The faults of the
emulator continue, with a new seed after each move. With the same seed, the emulator would refuse a
task every time that the relay sends it again with the same name.

At the end the test checks the following:

- Every record is final, and stays as it is. `task_finished` reported each end once.
- The task of every committed order has succeeded, or it failed by its policy, or the log of the
  emulator shows that its queue gave it up. No task of a rolled back order ran.
- The effects of an atomic task exist exactly once if it succeeded, and not at all otherwise.
- Every result is correct.
- The tasks write a journal in a file. It agrees with the records of all attempts.

Three environment variables control a run:

- STORM_SEED=7 repeats the decisions of a run. It does not repeat the timing.
- STORM_ORDERS=1000 makes the run longer.
- STORM_OF=few,closing includes only these parts of `tests.storm.ingredients`.
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
import urllib.request
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.db import InterfaceError, OperationalError, connections
from django_tasks_cloud_tasks import StoredTask
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from tests import mariadb, postgres
from tests.integration.test_emulator_program import MODULE
from tests.integration.test_servers import ROOT
from tests.models import Counter, Mark, Order
from tests.storm import ingredients
from tests.storm.journal import SNOOZED, read
from tests.storm.judge import Case, Dispatches, Judge, Watch, dispatches, errors_of, tally
from tests.storm.tasks import ATOMIC, QUEUES, kinds_of

LOCATION = "projects/storm/locations/sea"
VICTIMS = {
    "kills": ["worker", "worker", "worker", "relay", "enqueuer", "emulator"],
    "closing": ["site"],
    "database": ["database", "database"],  # one crash and one shutdown
}
CALM = 600.0  # seconds of real time after the last kill in which all tasks must end
PATIENCE = 120.0  # seconds for a program to start or answer; the machine may be busy
JUMPS = 60  # moves of the clock until a task that is not final counts as lost
LATEST = timedelta(days=60)  # The relay still looks up a READY task after 31 days.
TOGETHER = timedelta(minutes=30)  # one jump covers all looks of the relay within this time


class Program:
    """A program that the test kills and starts again."""

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
    """The emulator. It keeps its state in a file, and always uses the port of its first start."""

    def begin(self, folder: Path, seed: int | None) -> str:
        self.state = ["--state", str(folder / "emulator")]
        self.seed = seed
        self.start("--port", "0", *self._arguments())
        self.address = self._greeting()
        with self.client() as client:
            # Short waits between attempts keep the test short.
            for queue, attempts in QUEUES.items():
                retry = {"max_backoff": {"seconds": 1}, "max_attempts": attempts}
                name = f"{LOCATION}/queues/{queue}"
                client.create_queue(parent=LOCATION, queue={"name": name, "retry_config": retry})
        return self.address

    def again(self) -> None:
        self.start("--port", self.address.rpartition(":")[2], *self._arguments())

    def _arguments(self) -> list[str]:
        if self.seed is None:
            return self.state
        rates = "duplicate=0.2,drop=0.15,refuse=0.05,delay=0.2,longest_delay=0.3"
        return [*self.state, "--chaos", f"seed={self.seed},{rates}"]

    def reseed(self) -> None:
        """Restart the emulator with the next seed, so that the same attempt gets other faults."""
        if self.seed is not None:
            self.end()
            self.seed += 1
            self.again()

    def tasks(self) -> int:
        """Return the number of tasks in its queues."""
        with self.client() as client:
            return sum(
                len(list(client.list_tasks(parent=f"{LOCATION}/queues/{queue}")))
                for queue in QUEUES
            )

    def move_to(self, moment: datetime) -> None:
        """Move its clock forward to `moment`. After a restart, the clock may be behind."""
        with self.client():
            now = self._clock()
        self._clock(advance=max(0.0, moment.timestamp() - now))

    def _clock(self, **change: float) -> float:
        """Change its clock if there is a change, and return its time."""
        request = urllib.request.Request(
            f"http://{self.address}/emulator/clock",
            json.dumps(change).encode() if change else None,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return float(json.load(response)["now"])

    @contextmanager
    def client(self) -> Iterator[Any]:
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(PATIENCE)
            yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))

    def _greeting(self) -> str:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = re.search(r" on (127\.0\.0\.1:\d+)\.", self.log.read_text())
            if found:
                return found[1]
            assert not self.ended, self.log.read_text()
            time.sleep(0.05)  # only its log shows that it is ready
        raise AssertionError("the emulator said nothing")


class Site(Program):
    """The site in gunicorn. The test can close it and open it again."""

    def open(self, address: str) -> None:
        self.start()
        host, _, port = address.partition(":")
        until = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as knocking:
                if knocking.connect_ex((host, int(port))) == 0:
                    return
            assert not self.ended, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)  # only a connection shows that it listens

    def close(self) -> None:
        """Kill the master and its workers."""
        workers = [] if self.ended else self.workers()
        self.end()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def workers(self) -> list[int]:
        assert self.process is not None
        master = self.process.pid
        return [int(p) for p in Path(f"/proc/{master}/task/{master}/children").read_text().split()]


def lasting_port() -> int:
    """Return a free port outside the range from which the system assigns ports to connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


class Storm:
    """The site, the emulator, the relays and the process that places orders, and their failures."""

    def __init__(self, database: str, folder: Path, seed: int, orders: int) -> None:
        self.database = database
        self.folder = folder
        self.seed = seed
        self.orders = orders
        self.draw = random.Random(seed)
        self.ingredients = ingredients.chosen()
        self.victims = [v for of, some in VICTIMS.items() if of in self.ingredients for v in some]
        self.killed: Tally[str] = Tally()
        self.lives = 0
        self.ahead = timedelta()
        self.jumps = 0
        self.left: int | None = None
        self.moves: list[tuple[float, float]] = []
        self.watch = Watch()
        self.redelivers = seed % 3 == 0
        self.began = self.calm_since = time.monotonic()
        self.calm_at = datetime.now(UTC)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """A context in which all programs run."""
        entry = {
            name: str(value) if name == "NAME" else value
            for name, value in connections.settings[self.database].items()
            if name in {"ENGINE", "NAME", "USER", "HOST", "OPTIONS"}
        }
        self.entry = entry
        self.pooled = (
            "postgresql" in entry["ENGINE"] and "pool" in self.ingredients and self.seed % 2 == 0
        )
        if self.pooled:
            entry["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 3, "timeout": 10}}
        self.journal = self.folder / "journal"
        own = {"STORM_DATABASE": json.dumps(entry), "STORM_JOURNAL": str(self.journal)}
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "tests.storm.settings",
            "PYTHONUNBUFFERED": "1",
            "STORM_OF": ",".join(self.ingredients),
            "STORM_LOST_TASKS": "redeliver" if self.redelivers else "fail",
        }
        with ExitStack() as stack:
            self.emulator = Emulator(
                *(*MODULE, "--host", "127.0.0.1"), log=self.folder / "emulator.log"
            )
            stack.callback(self.emulator.end)
            own["STORM_EMULATOR"] = self.emulator.begin(
                self.folder, self.seed if "chaos" in self.ingredients else None
            )
            # The tasks enqueue others, so the site must know its own address before it starts.
            self.address = f"127.0.0.1:{lasting_port()}"
            own["STORM_HANDLER"] = f"http://{self.address}"
            gunicorn = [
                *(sys.executable, "-m", "gunicorn", "tests.wsgi:application"),
                *("--bind", self.address, "--workers", "3", "--threads", "4"),
                "--no-control-socket",
            ]
            self.site = Site(*gunicorn, environ=environ | own, log=self.folder / "gunicorn.log")
            stack.callback(self.site.close)
            self.site.open(self.address)
            relay = (sys.executable, "-m", "django", "cloudtasks_relay", "--interval", "0.2")
            enqueuer = (sys.executable, "-m", "tests.storm.enqueuer")
            self.relays = [
                Program(*relay, environ=environ | own, log=self.folder / f"relay-{number}.log")
                for number in range(2)
            ]
            self.enqueuer = Program(
                *enqueuer, environ=environ | own, log=self.folder / "enqueuer.log"
            )
            later = (sys.executable, "-m", "tests.storm.later")
            self.later = Program(*later, environ=environ | own, log=self.folder / "later.log")
            for program in (*self.relays, self.enqueuer, self.later):
                stack.callback(program.end)
            for program in self.relays:
                program.start()
            yield

    def rage(self) -> None:
        """Cause failures until there are enough orders and every kind of failure happened."""
        deck: list[str] = []
        while self._is_too_little() or self.killed.total() < len(self.victims):
            if self.enqueuer.ended:
                self.lives += 1
                self.enqueuer.start(f"{self.seed}/{self.lives}", str(self.orders))
            time.sleep(self.draw.uniform(0.3, 1.0))  # the pause between two failures
            deck = deck or self.draw.sample(self.victims, len(self.victims))
            victim = deck.pop() if deck else ""
            self.killed.update([victim] if victim else [])
            match victim:
                case "worker":
                    if workers := self.site.workers():
                        with suppress(ProcessLookupError):
                            os.kill(self.draw.choice(workers), signal.SIGKILL)
                case "site":
                    self.site.close()
                    time.sleep(self.draw.uniform(0.5, 4.0))  # as after a faulty deploy
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
                    time.sleep(self.draw.uniform(0.2, 2.0))  # Cloud Tasks is unavailable
                    self.emulator.again()
        self.enqueuer.end()

    def _is_too_little(self) -> bool:
        """Return whether too few orders are committed, or a kind is missing.

        If the database is unavailable, return True.
        """
        try:
            orders = Tally(Order.objects.using(self.database).values_list("kind", flat=True))
            self._rows()
        except (OperationalError, InterfaceError):
            connections[self.database].close()
            return True
        return orders.total() < self.orders or set(orders) != set(kinds_of(self.ingredients))

    def _trouble_the_database(self) -> None:
        connections[self.database].close()
        if "sqlite" in self.entry["ENGINE"]:
            with closing(sqlite3.connect(self.entry["NAME"], isolation_level=None)) as other:
                other.execute("PRAGMA busy_timeout = 20000")
                other.execute("BEGIN IMMEDIATE")
                time.sleep(self.draw.uniform(1.0, 2.5))  # sometimes longer than a lease
                other.execute("ROLLBACK")
            return
        server = postgres if "postgresql" in self.entry["ENGINE"] else mariadb
        with server.away(self.entry, crashes=self.killed["database"] % 2 == 1):
            time.sleep(self.draw.uniform(0.0, 3.0))  # sometimes longer than a lease

    def settle(self) -> None:
        """Wait until every task has ended. Move the clocks forward whenever nothing runs.

        After a timeout this returns too. `judge` then reports the tasks that have not ended.
        """
        self.calm_since, self.calm_at = time.monotonic(), datetime.now(UTC)
        while True:
            # The emulator is asked first. If it delivers a task after that, the rows show the task.
            self.left = self.emulator.tasks()
            now = datetime.now(UTC)
            rows = [row for row in self._rows() if not row.record.final or row.relay_at is not None]
            if not rows and not self.left:
                return
            if time.monotonic() > self.calm_since + CALM or self.jumps == JUMPS:
                return
            runs = [row for row in rows if row.claim_expires_at and row.claim_expires_at > now]
            looks = [row.relay_at for row in rows if row.relay_at is not None]
            if self.left or runs or not rows:
                time.sleep(0.2)  # only the rows show the ends of tasks
            elif not looks or min(looks) - now > LATEST:
                return  # The relay will not look at these tasks any more.
            else:
                self._move_on(max(min(looks) - now, self.ahead) + TOGETHER)

    def _move_on(self, ahead: timedelta) -> None:
        """Move the emulator's clock forward, and run a relay whose clock is ahead by the same."""
        self.jumps += 1
        self.moves.append((time.time(), (ahead - self.ahead).total_seconds()))
        self.ahead = ahead
        self.emulator.reseed()
        self.emulator.move_to(datetime.now(UTC) + ahead)
        self.later.start(str(ahead.total_seconds()))
        assert self.later.process is not None
        self.later.process.wait(PATIENCE)

    def _rows(self) -> list[StoredTask]:
        rows = list(StoredTask.objects.using(self.database))
        self.watch.look(rows)
        return rows

    def judge(self) -> list[str]:
        """Compare the records with the orders, the effects and the journal. Return the faults."""
        orders = {order.task_id: order for order in Order.objects.using(self.database)}
        rows = {row.task_id: row for row in self._rows()}
        marks = Tally(Mark.objects.using(self.database).values_list("name", flat=True))
        journal, log = read(self.journal), dispatches(self.folder / "emulator.log")
        wrong = [f"recorded, and not ordered: {key}" for key in set(rows) - set(orders)]
        wrong += [f"took effect, and must not: {key}" for key in set(marks) - set(orders)]
        wrong += [f"ran, and was not ordered: {key}" for key in set(journal) - set(orders)]
        wrong += [f"Cloud Tasks has {self.left} left"] if self.left else []
        wrong += self.watch.faults
        judge = Judge(
            ingredients=self.ingredients,
            redelivers=self.redelivers,
            moves=self.moves,
            calm_at=self.calm_at,
        )
        for key, order in orders.items():
            if key not in rows:
                wrong.append(f"lost, without a record: {order}")
                continue
            latest = log.get((key, rows[key].redelivery_count), Dispatches())
            case = Case(
                order=order, row=rows[key], told=journal[key], effects=marks[key], latest=latest
            )
            wrong += [f"{fault}: {case}" for fault in judge.faults(case)]
        succeeded = tally(orders.values(), rows)
        for counter in Counter.objects.using(self.database):
            if counter.value != succeeded[counter.name]:
                wrong.append(f"counted {counter}, succeeded {succeeded[counter.name]}")
        unordered = set(kinds_of(self.ingredients)) - {order.kind for order in orders.values()}
        return wrong + [f"nobody ordered: {kind}" for kind in unordered]

    def report(self) -> str:
        """Return a summary of the run in numbers."""
        rows, orders = self._rows(), list(Order.objects.using(self.database))
        effects = Mark.objects.using(self.database).count()
        journal = read(self.journal)
        snoozed = sum(SNOOZED in run.at for told in journal.values() for run in told.runs)
        unheard = sum(row.record.final and not journal[row.task_id].ends for row in rows)
        errors = Tally(path.rpartition(".")[2] for row in rows for path, _ in errors_of(row))
        return (
            f"Storm {self.seed} on {connections[self.database].vendor} "
            f"of {', '.join(sorted(self.ingredients)) or 'nothing'}, "
            f"with{'' if self.pooled else 'out'} a pool, "
            f"lost tasks {'sent again' if self.redelivers else 'failed'}, "
            f"{self.calm_since - self.began:.0f} s and {time.monotonic() - self.calm_since:.0f} s "
            f"after the last kill: {len(orders)} orders "
            f"({counts(order.kind for order in orders)}; {counts(o.queue for o in orders)}), "
            f"{self._heard('enqueuer', 'rolled back')} rolled back; "
            f"{counts(row.status for row in rows)}; "
            f"{self._heard('emulator', 'attempt started')} attempts by the emulator, "
            f"{sum(row.attempt_count for row in rows)} of them claimed, "
            f"{effects} effects; errors: {counts(errors.elements())}; "
            f"{snoozed} runs snoozed; {unheard} ends not told; "
            f"hit: {counts(self.killed.elements())}; "
            f"then {self.jumps} moves of the clock, {self.ahead} in all"
        )

    def _heard(self, name: str, words: str) -> int:
        log = self.folder / f"{name}.log"
        return log.read_text(errors="replace").count(words) if log.exists() else 0


@pytest.mark.parametrize(
    ("database", "orders"),
    [("sqlite_file", 150), ("postgres_cluster", 200), ("mariadb_server", 200)],
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
            try:
                storm.rage()
                storm.settle()
            finally:
                report = storm.report()
                with capsys.disabled():
                    print(f"\n{report}.")
        wrong = sorted(storm.judge())
        assert not wrong, f"{len(wrong)} faults\n" + "\n".join([*wrong[:30], report])
    finally:
        for model in (Order, Mark, Counter):
            model.objects.using(database).all().delete()


def counts(things: Iterable[str]) -> str:
    """Return how many times each text occurs."""
    return ", ".join(f"{count} {thing}" for thing, count in Tally(things).most_common()) or "none"
