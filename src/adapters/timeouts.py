"""Waiting that ends: for calls whose own time-outs do not cover everything they do."""

import threading
from collections.abc import Callable


def call_with_timeout[T](seconds: float, call: Callable[[], T]) -> T | None:
    """What `call` returns, or None if that takes longer: then its thread is left behind.

    Raises:
        Exception: whatever `call` raises in time.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="cloud-tasks-timeout", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return results[0] if results else None
