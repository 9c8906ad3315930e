"""What the core asks of the outside, as protocols. `adapters` and tests implement them."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from .failures import FailedTask, FailureGroup, FailureSelection
from .names import QueueName
from .records import Backlog, State, TaskRecord, UnreadableRecord
from .requests import TaskRequest

type Claims = Mapping[str, object]
"""The payload of a verified JSON Web Token."""


class TaskQueue(Protocol):
    """Where tasks are created."""

    def create(self, request: TaskRequest, *, timeout: float) -> None:
        """Create the task; return once it is stored.

        Args:
            timeout: seconds in all, retries included.

        Raises:
            EnqueueError: it was not stored, or nobody can tell.
        """

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - one word for both
        """`create`, awaited on the running loop without a thread."""

    def delete(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """Delete a task that has not ended; whether there was one.

        Raises:
            CancelError: it was not deleted, or nobody can tell.
        """

    def run(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """Dispatch a task now, whatever its schedule time; whether there is one.

        Raises:
            RunNowError: Cloud Tasks refused, or did not answer.
        """

    def exists(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """Whether there is a task of that id that has not ended.

        Raises:
            LookUpError: Cloud Tasks refused, or did not answer.
        """


class ResultStore(Protocol):
    """Where records of tasks are kept. Every method may be called from any thread."""

    def add(self, record: TaskRecord) -> None:
        """Keep a record, in the caller's transaction. One with that id that is there stays."""

    def get(self, task_id: str) -> TaskRecord | None:
        """The record as it is now.

        Raises:
            UnreadableRecordError: there is one, and it cannot be read.
        """

    def replace(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """Change what differs between the two, in one step.

        Returns:
            False, and nothing changed, if the fence is no longer that of `seen`.
        """

    def renew(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """`replace`, for what can be left to the next time: it waits for nobody.

        Returns:
            False if the fence is no longer that of `seen`. True also where somebody else is
            about to change the record, and nothing was written.
        """

    def due(
        self, backends: Collection[str], *, now: datetime, until: datetime, limit: int
    ) -> list[TaskRecord | UnreadableRecord]:
        """Take records of these backends whose `relay.at` has come, the longest due first.

        Their `relay.at` becomes `until`, so that of several processes each takes others.
        """

    def set_aside(self, task_id: str, reason: str, *, until: datetime) -> None:
        """Have the relay leave a record alone until then; `reason` becomes its `relay.error`.

        For records that cannot be handled otherwise. It reads nothing of the record.
        """

    def backlog(self, backends: Collection[str]) -> Backlog:
        """The records of these backends that failed to be sent, and wait for another try."""

    def count_finished(self, states: Collection[State], before: datetime) -> int:
        """How many records in these states finished before that time."""

    def prune(self, states: Collection[State], before: datetime, *, limit: int) -> int:
        """Delete up to `limit` of those; how many there were."""

    def failure_groups(
        self,
        *,
        since: datetime | None = None,
        replayed: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[FailureGroup]:
        """The final failures by task and class of error, the groups that failed last first.

        Args:
            since: only failures since then.
            replayed: whether those that were replayed count as well.
            limit, offset: how many groups, and how many are left out before them.
        """

    def failed_tasks(self, selection: FailureSelection, *, limit: int) -> list[FailedTask]:
        """Up to `limit` of the chosen failures, the oldest first."""

    def count_failures(self, selection: FailureSelection) -> int:
        """How many failures are chosen."""

    def delete_failures(self, selection: FailureSelection, *, limit: int) -> int:
        """Delete up to `limit` of the chosen failures, the oldest first; how many there were."""

    def atomic(self) -> AbstractContextManager[None]:
        """A transaction: what happens inside happens wholly, or not at all if it raises."""

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call once the caller's transaction is committed; at once if there is none.

        What it raises is logged and goes no further: the caller's work is done.
        """

    def insist[R](self, call: Callable[[], R], go_on: Callable[[], bool]) -> R:
        """What `call` answers, which asks this store; asked again while the store is away.

        Not in a caller's transaction: that is over when something in it fails.

        Args:
            go_on: whether another try is worth it.

        Raises:
            Exception: what the last try raised.
        """

    def rest(self) -> None:
        """Give back what others may wait for, while this thread does something else."""

    def release(self) -> None:
        """Give back what this thread holds; for threads that do not serve requests."""


class MetadataServer(Protocol):
    """Google Cloud's metadata server, or its absence."""

    @property
    def is_absent(self) -> bool:
        """Whether it is certain that there is none, so that no value will ever come."""

    def get(self, path: str, is_valid: Callable[[str], bool] = bool) -> str | None:
        """The value under `/computeMetadata/v1/` + `path`; None if there is none to be had.

        Args:
            is_valid: whether a text can be such a value. What is none is not kept.

        Raises:
            ConfigurationError: there is a server, and it does not answer, or not with a value.
        """


class TokenVerifier(Protocol):
    """Verifies OIDC tokens: signature and validity in time. What they claim, the core judges."""

    def verify(self, token: str, *, may_wait: bool) -> Claims | None:
        """The claims of a token that its issuer signed and that is valid now.

        Args:
            may_wait: whether certificates may be fetched, or modules imported, for it.

        Returns:
            None where it would have to wait, and must not.

        Raises:
            InvalidTokenError: bad in any way, or no certificates to check it with.
        """
