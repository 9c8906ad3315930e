"""Doing something again and again while something else goes on, on one thread for all of it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

logger = logging.getLogger("django_tasks_cloud_tasks")


@attrs.define(eq=False)
class Beat:
    """One thing to do again and again: what, every how many seconds, and when next."""

    call: Callable[[], None]
    interval: float
    due: float


class Heartbeat:
    """Calls what it is given at intervals, as long as it is wanted.

    Its thread starts with the first beat. A call is expected to be short; what it raises is
    logged, and it is called again. A forked child needs a heartbeat of its own.
    """

    def __init__(self) -> None:
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

    def hurry(self, beat: Beat) -> None:
        """Call it as soon as possible, and then at its intervals again."""
        with self._changed:
            beat.due = 0.0
            self._changed.notify()

    def _run(self) -> None:
        while True:
            beat = self._next()
            try:
                beat.call()
            except BaseException:
                # Nothing that one of them raises may end the others.
                logger.exception("A heartbeat failed; it is tried again in %g s.", beat.interval)

    def _next(self) -> Beat:
        """Wait for the next beat that is due; its next time is set already."""
        with self._changed:
            while True:
                first = min(self._beats, key=lambda beat: beat.due, default=None)
                now = time.monotonic()
                if first is not None and first.due <= now:
                    first.due = now + first.interval
                    return first
                self._changed.wait(first.due - now if first else None)
