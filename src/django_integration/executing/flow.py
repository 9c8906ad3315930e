"""Code that is written once, and waits in a thread where it runs on an event loop.

A flow is a generator. It yields what may wait for a network, an import or a lock, and gets the
answer back. `run` calls that in place, `arun` in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import attrs
from asgiref.sync import sync_to_async


@attrs.frozen
class Wait:
    """Have `call` called, and its answer sent, or what it raises thrown, into the flow."""

    call: Callable[[], Any]


type Flow[R] = Generator[Wait, Any, R]


def run[R](flow: Flow[R]) -> R:
    """What the flow returns; it waits in this thread."""
    answer, error = None, None
    while True:
        try:
            step = flow.send(answer) if error is None else flow.throw(error)
        except StopIteration as end:
            result: R = end.value
            return result
        try:
            answer, error = step.call(), None
        except Exception as raised:  # noqa: BLE001 - the flow's to handle
            error = raised


async def arun[R](flow: Flow[R]) -> R:
    """What the flow returns; it waits in other threads."""
    answer, error = None, None
    while True:
        try:
            step = flow.send(answer) if error is None else flow.throw(error)
        except StopIteration as end:
            result: R = end.value
            return result
        try:
            answer, error = await sync_to_async(step.call, thread_sensitive=False)(), None
        except Exception as raised:  # noqa: BLE001 - the flow's to handle
            error = raised
