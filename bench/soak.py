"""`python -m bench.soak [--seconds 600] [--seed 1]`: a long test of the emulator with chaos.

The program creates tasks in three queues with different limits. The handler fails a fifth of the
deliveries. Chaos duplicates, refuses and delays deliveries, and drops responses. At the end every
task must have succeeded. No task may be delivered after its success was acknowledged. Otherwise the
exit code is 1.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter

import attrs
from aiohttp import web
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.ways_out.chaos import Chaos
from google.cloud.tasks_v2 import types

_LOCATION = "projects/soak/locations/l"
_METHOD = "/google.cloud.tasks.v2.CloudTasks/CreateTask"
_LIMITS = {
    "fast": {},
    "slow": {"max_dispatches_per_second": 20},
    "few": {"max_concurrent_dispatches": 3},
}


@attrs.define
class History:
    """The deliveries of a task, and its success, as times of `time.monotonic`."""

    received: list[float] = attrs.field(factory=list)
    succeeded: float | None = None


@attrs.define
class Soak:
    """One run of the test.

    Attributes:
        seed: the seed of chaos and of the random numbers.
        tasks: the histories by task id.
        answers: how many attempts ended with each result.
    """

    seed: int
    tasks: dict[str, History] = attrs.field(factory=dict)
    answers: Counter[str] = attrs.field(factory=Counter)

    async def run(self, seconds: float) -> bool:
        """Create tasks for this time, wait for their ends, print a report.

        Returns:
            Whether every task succeeded, and none was delivered after its success.
        """
        rng = random.Random(self.seed)  # noqa: S311 - test data, no secret
        chaos = Chaos(seed=self.seed, duplicate=0.1, drop=0.1, refuse=0.1, delay=0.2)
        emulator = Emulator(log=self._hear, chaos=chaos)
        address = f"127.0.0.1:{await emulator.start('127.0.0.1', 0)}"
        url, runner = await self._handler(rng)
        methods = emulator._api.methods
        create_queue = methods[_METHOD.replace("CreateTask", "CreateQueue")]
        for name, limits in _LIMITS.items():
            request = types.CreateQueueRequest(
                parent=_LOCATION,
                queue={
                    "name": f"{_LOCATION}/queues/{name}",
                    "rate_limits": limits,
                    "retry_config": {"max_attempts": -1, "max_backoff": {"seconds": 2}},
                },
            )
            create_queue.answer(types.CreateQueueRequest.pb(request))
        began, late = time.monotonic(), 0.0
        while time.monotonic() - began < seconds:
            name = f"{_LOCATION}/queues/{rng.choice([*_LIMITS])}"
            request = types.CreateTaskRequest(
                parent=name, task={"http_request": {"url": url, "body": b"{}"}}
            )
            created = methods[_METHOD].answer(types.CreateTaskRequest.pb(request))
            self.tasks[created.name.rpartition("/")[2]] = History()
            await asyncio.sleep(rng.expovariate(30))
        print(f"created {len(self.tasks)} tasks at {address} in {seconds:.0f} s; seed {self.seed}")
        while any(emulator.service.tasks(queue.name) for queue in emulator.service.queues()):
            await asyncio.sleep(0.1)
            late = time.monotonic() - began - seconds
            if late > 120:
                break
        await emulator.stop()
        await runner.cleanup()
        return self._tell(late)

    async def _handler(self, rng: random.Random) -> tuple[str, web.AppRunner]:
        async def handle(request: web.Request) -> web.Response:
            task = request.headers["X-CloudTasks-TaskName"]
            self.tasks[task].received.append(time.monotonic())
            await request.read()
            await asyncio.sleep(rng.random() * 0.02)
            return web.Response(status=rng.choice([200] * 8 + [500, 429]))

        application = web.Application()
        application.router.add_post("/", handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/", runner

    def _hear(self, event: str, facts: dict[str, object]) -> None:
        if event == "attempt finished":
            because = facts.get("because")
            self.answers[f"{facts['answer']}{' by chaos' if because == 'chaos' else ''}"] += 1
            if facts["answer"] == 200:
                self.tasks[str(facts["task"]).rpartition("/")[2]].succeeded = time.monotonic()

    def _tell(self, late: float) -> bool:
        histories = self.tasks.values()
        undelivered = sum(not history.received for history in histories)
        unfinished = sum(history.succeeded is None for history in histories)
        after_success = sum(
            received > history.succeeded
            for history in histories
            if history.succeeded is not None
            for received in history.received
        )
        figures = {
            "tasks": len(self.tasks),
            "deliveries": sum(len(history.received) for history in histories),
            "answers": dict(self.answers),
            "never delivered": undelivered,
            "without success": unfinished,
            "delivered after acknowledged success": after_success,
            "seconds until the last": round(late, 1),
        }
        print(json.dumps(figures, indent=2))
        return not (undelivered or unfinished or after_success)


def main() -> int:
    """Run the test, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return 0 if asyncio.run(Soak(options.seed).run(options.seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
