"""A queue behind a circuit breaker: while Cloud Tasks does not answer, few calls wait for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from ..core.breaker import Breaker
from ..core.errors import CancelError, CloudTasksError, ControlError, LookUpError, RunNowError
from ..core.names import QueueName
from ..core.ports import TaskQueue
from ..core.requests import TaskRequest

_SILENT = "Cloud Tasks did not answer a moment ago."


class GuardedTaskQueue:
    """`TaskQueue` that notes which calls were not answered.

    All calls of a backend count, those of the relay as well. A creation is always tried: who
    enqueues wants to know. To delete or to run a task is refused while the breaker is open.

    Args:
        clock: the time, aware.
    """

    def __init__(self, queue: TaskQueue, *, clock: Callable[[], datetime]) -> None:
        self._queue = queue
        self._clock = clock
        self._breaker = Breaker()

    @property
    def is_silent(self) -> bool:
        """Whether a call would only wait for the same silence."""
        return self._breaker.is_open(self._clock())

    def create(self, request: TaskRequest, *, timeout: float) -> None:
        """See `TaskQueue.create`."""
        with self._noting():
            self._queue.create(request, timeout=timeout)

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - the port's word
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
        """Around a call: who waits for it in vain has waited for the others.

        Raises:
            ControlError: of the class `refusal`, where there is one and the breaker is open.
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
