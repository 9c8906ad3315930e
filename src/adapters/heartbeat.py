"""Periodic calls while other work runs. One thread makes all of them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

logger = logging.getLogger("django_tasks_cloud_tasks")


_SOONER = 8  # a failed call is repeated after the interval divided by this number
_LONGEST_WAIT = 1.0  # seconds; the longest wait before a failed call is repeated


@attrs.define(eq=False)
class Beat:
    """A periodic call.

    Attributes:
        call: the function to call.
        interval: seconds between two calls.
        due: the time of the next call, by `time.monotonic`.
    """

    call: Callable[[], None]
    interval: float
    due: float


class Heartbeat:
    """Makes periodic calls on one thread.

    The thread starts with the first beat. The calls should be short, because they run one after
    another. An exception of a call is logged, and the call is repeated before its interval is over.
    A forked child needs its own instance.

    Args:
        idle: called on the thread when there are no more beats. It closes the resources that the
            calls left open.
    """

    def __init__(self, idle: Callable[[], None] = lambda: None) -> None:
        self._idle = idle
        self._changed = threading.Condition()
        self._beats: set[Beat] = set()
        self._started = False

    @contextmanager
    def every(self, seconds: float, call: Callable[[], None]) -> Iterator[Beat]:
        """Return a context manager. While its body runs, `call` is called periodically.

        The first call comes after one interval. Leaving the body does not wait for a call that is
        in progress.

        Args:
            seconds: the interval.
            call: the function to call.
        """
        beat = Beat(call, seconds, time.monotonic() + seconds)
        with self._changed:
            if not self._started:
                threading.Thread(target=self._run, name="heartbeat", daemon=True).start()
                self._started = True
            self._beats.add(beat)
            self._changed.notify()
        try:
            yield beat
        finally:
            with self._changed:
                self._beats.discard(beat)
                self._changed.notify()

    def hurry(self, beat: Beat) -> None:
        """Make the next call of a beat as soon as possible. Its interval starts again then."""
        with self._changed:
            beat.due = 0.0
            self._changed.notify()

    def _run(self) -> None:
        is_idle = True
        while True:
            beat = self._next(wait=is_idle)
            is_idle = beat is None
            call = self._idle if beat is None else beat.call
            try:
                call()
            except BaseException:
                # An exception of one call must not end the calls of the other beats.
                if beat is None:
                    logger.exception(
                        "Closing the database connections of the heartbeat thread failed."
                    )
                else:
                    soon = self._sooner(beat)
                    logger.exception("A heartbeat failed. It is repeated in %.2g s.", soon)

    def _sooner(self, beat: Beat) -> float:
        """Schedule the next call of a beat before its interval is over.

        Returns:
            The wait, in seconds.
        """
        soon = min(beat.interval / _SOONER, _LONGEST_WAIT)
        with self._changed:
            beat.due = min(beat.due, time.monotonic() + soon)
        return soon

    def _next(self, *, wait: bool) -> Beat | None:
        """Wait until a beat is due, set the time of its next call, and return it.

        Args:
            wait: whether to wait for a new beat if there are none; otherwise return None then.
        """
        with self._changed:
            while True:
                first = min(self._beats, key=lambda beat: beat.due, default=None)
                if first is None and not wait:
                    return None
                now = time.monotonic()
                if first is not None and first.due <= now:
                    first.due = now + first.interval
                    return first
                self._changed.wait(first.due - now if first else None)
