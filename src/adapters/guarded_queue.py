"""A queue with a circuit breaker. While Cloud Tasks does not answer, only few calls wait for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from ..core.breaker import Breaker
from ..core.errors import CancelError, CloudTasksError, ControlError, LookUpError, RunNowError
from ..core.names import QueueName
from ..core.ports import TaskQueue
from ..core.requests import TaskRequest

_SILENT = (
    "This call was not made, because Cloud Tasks did not answer an earlier call. Try again in a "
    "few seconds."
)


class GuardedTaskQueue:
    """A `TaskQueue` with a circuit breaker that opens after a call without an answer.

    All calls of a backend count, including those of the relay. `create` and `acreate` always make
    the call, because the caller needs the result. `delete`, `run` and `exists` raise while the
    breaker is open.

    Args:
        queue: the queue to call.
        clock: returns the time, as an aware datetime.
    """

    def __init__(self, queue: TaskQueue, *, clock: Callable[[], datetime]) -> None:
        self._queue = queue
        self._clock = clock
        self._breaker = Breaker()

    @property
    def is_silent(self) -> bool:
        """Whether the breaker is open, so that a call would probably get no answer either."""
        return self._breaker.is_open(self._clock())

    def create(self, request: TaskRequest, *, timeout: float) -> None:
        """See `TaskQueue.create`."""
        with self._noting():
            self._queue.create(request, timeout=timeout)

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - the port's signature
        """See `TaskQueue.acreate`."""
        with self._noting():
            await self._queue.acreate(request, timeout=timeout)

    def delete(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """See `TaskQueue.delete`."""
        with self._noting(CancelError):
            return self._queue.delete(queue, task_id, timeout=timeout)

    def run(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """See `TaskQueue.run`."""
        with self._noting(RunNowError):
            return self._queue.run(queue, task_id, timeout=timeout)

    def exists(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """See `TaskQueue.exists`."""
        with self._noting(LookUpError):
            return self._queue.exists(queue, task_id, timeout=timeout)

    @contextmanager
    def _noting(self, refusal: type[ControlError] | None = None) -> Iterator[None]:
        """Return a context for one call. It opens or closes the breaker according to the result.

        Args:
            refusal: the error to raise if the breaker is open; None to make the call anyway.

        Raises:
            ControlError: `refusal`, because the breaker is open.
        """
        if refusal is not None and self.is_silent:
            raise refusal(_SILENT, unanswered=True)
        try:
            yield
        except CloudTasksError as error:
            self._breaker = self._breaker.after(error, now=self._clock())
            raise
        if self._breaker.open_until is not None:
            self._breaker = Breaker()
