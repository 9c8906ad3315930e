"""A timeout for calls whose own timeouts do not cover the whole call."""

import threading
from collections.abc import Callable


def call_with_timeout[T](seconds: float, call: Callable[[], T]) -> T | None:
    """Call `call` in a thread, and return its result; None if it does not end in time.

    After a timeout the daemon thread continues, and its result is ignored.

    Args:
        seconds: the timeout.
        call: the function to call.

    Raises:
        Exception: the exception that `call` raises before the timeout.
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
