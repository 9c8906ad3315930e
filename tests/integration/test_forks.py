"""Forked children can enqueue, even if their parent held a lock when it forked."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator

from tests.integration.paths import ROOT

# The beginning of the programs below. A child process ends with 0 if its work succeeds in time.
COMMON = """
import asyncio, os, signal, sys, threading
from django_tasks_cloud_tasks.adapters import cloud_tasks, metadata, tokens
from tests.integration.task_requests import task_request

queue = cloud_tasks.GrpcTaskQueue(sys.argv[1])

def in_child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(program: str) -> None:
    with BackgroundEmulator(
        lambda: Emulator(queues=["projects/p/locations/l/queues/q"], create_queues=True)
    ) as emulator:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", COMMON + program, emulator.address],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
        )
    assert done.returncode == 0, done.stderr


def test_child_processes_enqueue_after_their_parent_has_enqueued() -> None:
    run(
        """
queue.create(task_request("parent"), timeout=10)
codes = [
    in_child(lambda: queue.create(task_request(f"c{n}"), timeout=10)) for n in range(20)
] + [
    in_child(lambda: asyncio.run(queue.acreate(task_request(f"a{n}"), timeout=10)))
    for n in range(5)
]
assert codes == [0] * 25, codes
queue.create(task_request("parent-again"), timeout=10)
"""
    )


def test_child_processes_enqueue_and_aenqueue_after_their_parent_has_awaited() -> None:
    run(
        """
async def create(name):
    await queue.acreate(task_request(name), timeout=10)

asyncio.run(create("parent"))
codes = [in_child(lambda: asyncio.run(create(f"a{n}"))) for n in range(12)] + [
    in_child(lambda: queue.create(task_request(f"c{n}"), timeout=10)) for n in range(6)
]
assert codes == [0] * 18, codes

async def fork_while_the_loop_runs():
    await create("b")
    codes = [in_child(lambda: queue.create(task_request(f"d{n}"), timeout=10)) for n in range(4)]
    assert codes == [0] * 4, codes
    await create("e")

asyncio.run(fork_while_the_loop_runs())
"""
    )


LOCKED = {
    "the queue": "queue._lock",
    "the certificates": "store._lock",
    "the metadata server": "server._lock",
    "the runtime": "runtime._lock",
}


@pytest.mark.parametrize("what", LOCKED)
def test_a_lock_that_the_parent_holds_is_free_in_the_child(what: str) -> None:
    run(
        f"""
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from django_tasks_cloud_tasks.django_integration.runtime import get_runtime
runtime = get_runtime()
store = tokens.CertificateStore(lambda: tokens.FetchedCertificates({{"a": "b"}}, 60))
server = metadata.HttpMetadataServer("127.0.0.1:1")
held, let_go = threading.Event(), threading.Event()

def hold():
    with {LOCKED[what]}:
        held.set()
        let_go.wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()

def work():
    queue.create(task_request("child"), timeout=10)
    assert store.certificates("a")
    assert server.get("a") is None
    runtime.queue(sys.argv[1]).create(task_request("child-2"), timeout=10)

assert in_child(work) == 0
let_go.set()
"""
    )
