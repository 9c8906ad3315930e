"""Code that runs both in a thread and on an event loop.

A flow is a generator. It yields each call that can wait for a network, an import or a lock, and
receives the result. `run` makes these calls in the current thread. `arun` makes them in other
threads, so that the event loop does not block.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import attrs
from asgiref.sync import sync_to_async


@attrs.frozen
class Wait:
    """A call that can wait. The flow receives its result, or the exception that it raises."""

    call: Callable[[], Any]


type Flow[R] = Generator[Wait, Any, R]


def run[R](flow: Flow[R]) -> R:
    """Run a flow and return its result. The calls run in this thread."""
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
    """Run a flow and return its result. The calls run in other threads."""
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
