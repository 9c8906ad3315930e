"""The protocols of the adapters. `adapters`, the Django integration and tests implement them."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from .failures import FailedTask, FailureGroup, FailureSelection
from .names import QueueName
from .records import Backlog, State, TaskRecord, UnreadableRecord
from .requests import TaskRequest
from .schedules import ScheduleState

type Claims = Mapping[str, object]
"""The payload of a verified JSON Web Token."""


class TaskQueue(Protocol):
    """The queues of Cloud Tasks. All timeouts are in seconds, and include all repetitions."""

    def create(self, request: TaskRequest, *, timeout: float) -> None:
        """Create a task. Return when Cloud Tasks has stored it.

        Raises:
            EnqueueError: the task was not stored, or it is not known whether it was.
        """

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - one word for both
        """Create a task as `create` does, on the running event loop and without a thread."""

    def delete(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """Delete a task from its queue. Return whether it existed.

        Raises:
            CancelError: the task was not deleted, or it is not known whether it was.
        """

    def run(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """Dispatch a task now, before its schedule time. Return whether it exists.

        Raises:
            RunNowError: Cloud Tasks refused the call or did not answer.
        """

    def exists(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:
        """Return whether a task with this id is in its queue.

        Raises:
            LookUpError: Cloud Tasks refused the call or did not answer.
        """


class ResultStore(Protocol):
    """A store for the records of tasks. Every method can be called from any thread."""

    def add(self, record: TaskRecord) -> None:
        """Add a record, in the caller's transaction. An existing record with its id is kept."""

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the current record of a task; None without one.

        Raises:
            UnreadableRecordError: the record exists, but cannot be read.
        """

    def replace(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """Write the differences between two versions of a record, in one step.

        Args:
            seen: the version on which the decision is based.
            then: the new version.

        Returns:
            Whether they were written. False if the stored fence is no longer that of `seen`.
        """

    def renew(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """Write the differences as `replace` does, but do not wait for a lock on the record.

        It is used for the renewal of a lease, which can be left out once.

        Returns:
            False if the stored fence is no longer that of `seen`. True otherwise, also if nothing
            was written because another transaction has the lock.
        """

    def due(
        self, backends: Collection[str], *, now: datetime, until: datetime, limit: int
    ) -> list[TaskRecord | UnreadableRecord]:
        """Return the records that are due for the relay, the longest due first.

        Their `relay.at` is set to `until`, so that another process does not get the same records.

        Args:
            backends: the aliases of the backends of the records.
            now: the current time. A record is due if its `relay.at` is not later.
            until: when the records are due again.
            limit: the maximum number of records.
        """

    def set_aside(self, task_id: str, reason: str, *, until: datetime) -> None:
        """Set `relay.at` of a record to `until` and `relay.error` to `reason`.

        It is used for records that the relay cannot handle. It does not read the record.
        """

    def backlog(self, backends: Collection[str]) -> Backlog:
        """Return a summary of the records of these backends that the relay could not send yet."""

    def schedule_states(self) -> dict[str, ScheduleState]:
        """Return what is known of the schedules, by name."""

    def replace_schedule(self, seen: ScheduleState | None, then: ScheduleState) -> bool:
        """Write what is known of a schedule, in the caller's transaction.

        Args:
            seen: the state on which the decision is based; None if the schedule was not known.
            then: the new state.

        Returns:
            Whether it was written. False if another process has changed or added it since.
        """

    def count_finished(self, states: Collection[State], before: datetime) -> int:
        """Return the number of records in these states that finished before this time."""

    def prune(self, states: Collection[State], before: datetime, *, limit: int) -> int:
        """Delete up to `limit` of these records. Return the number of deleted records."""

    def failure_groups(
        self,
        *,
        since: datetime | None = None,
        replayed: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[FailureGroup]:
        """Return the groups of final failures. The group with the latest failure is the first.

        Args:
            since: include only failures from this time on; None for all.
            replayed: whether to include failures that were replayed.
            limit: the maximum number of groups; None for all.
            offset: the number of groups to skip.
        """

    def failed_tasks(self, selection: FailureSelection, *, limit: int) -> list[FailedTask]:
        """Return up to `limit` of the selected failures, the oldest first."""

    def count_failures(self, selection: FailureSelection) -> int:
        """Return the number of selected failures."""

    def delete_failures(self, selection: FailureSelection, *, limit: int) -> int:
        """Delete up to `limit` of the selected failures, the oldest first. Return their number."""

    def atomic(self) -> AbstractContextManager[None]:
        """Return a context for a transaction. It is rolled back if its body raises."""

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call `call` after the commit of the caller's transaction; at once if there is none.

        An exception in `call` is logged and not raised, because the work of the caller is already
        committed.
        """

    def insist[R](self, call: Callable[[], R], go_on: Callable[[], bool]) -> R:
        """Call `call`, and repeat it while the store cannot be reached. Return its result.

        Inside a transaction the call is not repeated, because a failure ends the transaction.

        Args:
            call: a function that uses this store.
            go_on: returns whether to make another try.

        Raises:
            Exception: the exception of the last try.
        """

    def rest(self) -> None:
        """Release resources that other threads may wait for. The thread may use the store later."""

    def release(self) -> None:
        """Release all resources of this thread. For threads that do not serve requests."""


class MetadataServer(Protocol):
    """The metadata server of Google Cloud, if there is one."""

    @property
    def is_absent(self) -> bool:
        """Whether it is certain that there is no metadata server."""

    def get(self, path: str, is_valid: Callable[[str], bool] = bool) -> str | None:
        """Return the value at `/computeMetadata/v1/` + `path`; None if there is no value.

        Args:
            path: the path of the value.
            is_valid: returns whether a text can be the value. Other texts are not cached.

        Raises:
            ConfigurationError: there is a server, and it returns no response or no valid value.
        """


class TokenVerifier(Protocol):
    """Verifies the signature and the times of OIDC tokens. `authorization` checks the claims."""

    def verify(self, token: str, *, may_wait: bool) -> Claims | None:
        """Verify a token and return its claims.

        Args:
            token: the token.
            may_wait: whether the call may fetch certificates or import modules.

        Returns:
            The claims. None if `may_wait` is False and the verification would have to wait.

        Raises:
            InvalidTokenError: the token is not valid, or there are no certificates.
        """
