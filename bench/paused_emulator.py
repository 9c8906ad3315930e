"""Runs an emulator that stores tasks, but dispatches none. It prints its address."""

import asyncio
import sys

from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.model import QueueState


async def main(queue: str) -> None:
    emulator = Emulator(queues=[queue])
    emulator.service.set_state(queue, QueueState.PAUSED)
    port = await emulator.start("127.0.0.1", 0)
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1]))
