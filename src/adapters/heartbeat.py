"""Doing something again and again while something else goes on, on one thread for all of it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

logger = logging.getLogger("django_tasks_cloud_tasks")


_SOONER = 8  # as many tries in the time of one interval
_LONGEST_WAIT = 1.0  # seconds before a beat that failed is tried again


@attrs.define(eq=False)
class Beat:
    """One thing to do again and again: what, every how many seconds, and when next."""

    call: Callable[[], None]
    interval: float
    due: float


class Heartbeat:
    """Calls what it is given at intervals, as long as it is wanted.

    Its thread starts with the first beat. A call is expected to be short; what it raises is
    logged, and it is called again sooner than at its interval. A forked child needs a heartbeat
    of its own.

    Args:
        idle: called by its thread when there is nothing more to call, to give back what the calls
            have left open.
    """

    def __init__(self, idle: Callable[[], None] = lambda: None) -> None:
        self._idle = idle
        self._changed = threading.Condition()
        self._beats: set[Beat] = set()
        self._started = False

    @contextmanager
    def every(self, seconds: float, call: Callable[[], None]) -> Iterator[Beat]:
        """Call every so many seconds while inside, for the first time after as many.

        A call that is under way when this is left ends by itself.
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
        """Call it as soon as possible, and then at its intervals again."""
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
                # Nothing that one of them raises may end the others.
                if beat is None:
                    logger.exception("The connections of the heartbeat could not be closed.")
                else:
                    soon = self._sooner(beat)
                    logger.exception("A heartbeat failed; it is tried again in %.2g s.", soon)

    def _sooner(self, beat: Beat) -> float:
        """Have a beat come before its interval is over; in how many seconds."""
        soon = min(beat.interval / _SOONER, _LONGEST_WAIT)
        with self._changed:
            beat.due = min(beat.due, time.monotonic() + soon)
        return soon

    def _next(self, *, wait: bool) -> Beat | None:
        """Wait for the next beat that is due; its next time is set already.

        Args:
            wait: also for one to begin; otherwise None where there is none.
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
