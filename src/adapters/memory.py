"""Implementations of the ports in memory, for tests."""

import base64
import json
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime

import attrs

from ..core.errors import InvalidTokenError
from ..core.failures import FailedTask, FailureGroup, FailureSelection, group_of, selects
from ..core.names import QueueName
from ..core.ports import Claims
from ..core.records import (
    Backlog,
    RelayStatus,
    State,
    TaskRecord,
    UnreadableRecord,
    changes,
    fence_of,
    with_leaves,
)
from ..core.requests import OidcIdentity, TaskRequest
from ..core.retention import may_prune
from ..core.schedules import ScheduleState

logger = logging.getLogger("django_tasks_cloud_tasks")


class MemoryTaskQueue:
    """A `TaskQueue` that stores the requests and delivers nothing.

    Attributes:
        requests: the stored requests, oldest first.
    """

    def __init__(self) -> None:
        self.requests: list[TaskRequest] = []

    def create(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ARG002 - the port's signature
        """Store the request."""
        if request.task_id is None or request.task_id not in [r.task_id for r in self.requests]:
            self.requests.append(request)

    async def acreate(self, request: TaskRequest, *, timeout: float) -> None:  # noqa: ASYNC109 - the port's signature
        """Store the request."""
        self.create(request, timeout=timeout)

    def delete(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:  # noqa: ARG002 - the port's signature
        """Remove the request, and return whether it was stored."""
        kept = [r for r in self.requests if (r.queue, r.task_id) != (queue, task_id)]
        found = len(kept) < len(self.requests)
        self.requests[:] = kept
        return found

    def run(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:  # noqa: ARG002 - the port's signature
        """Remove the schedule time of the request, and return whether the request is stored."""
        for index, request in enumerate(self.requests):
            if (request.queue, request.task_id) == (queue, task_id):
                self.requests[index] = attrs.evolve(request, schedule_time=None)
                return True
        return False

    def exists(self, queue: QueueName, task_id: str, *, timeout: float) -> bool:  # noqa: ARG002 - likewise
        """Return whether the request is stored."""
        return any((r.queue, r.task_id) == (queue, task_id) for r in self.requests)


class MemoryResultStore:
    """A `ResultStore` in a dictionary. Only one transaction runs at a time. Other threads wait."""

    def __init__(self) -> None:
        self._records: dict[str, TaskRecord] = {}
        self._schedules: dict[str, ScheduleState] = {}
        self._lock = threading.RLock()
        self._commit_hooks: list[Callable[[], None]] | None = None

    def add(self, record: TaskRecord) -> None:
        """See `ResultStore.add`."""
        with self._lock:
            self._records.setdefault(record.task_id, record)

    def get(self, task_id: str) -> TaskRecord | None:
        """See `ResultStore.get`."""
        with self._lock:
            return self._records.get(task_id)

    def replace(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """See `ResultStore.replace`."""
        with self._lock:
            kept = self._records.get(seen.task_id)
            if kept is None or fence_of(kept) != fence_of(seen):
                return False
            self._records[seen.task_id] = with_leaves(kept, changes(seen, then))
            return True

    def renew(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """See `ResultStore.renew`."""
        if not self._lock.acquire(blocking=False):
            return True
        try:
            return self.replace(seen, then)
        finally:
            self._lock.release()

    def due(
        self, backends: Collection[str], *, now: datetime, until: datetime, limit: int
    ) -> list[TaskRecord | UnreadableRecord]:
        """See `ResultStore.due`."""
        with self._lock:
            waiting = [
                (record.relay.at, record)
                for record in self._records.values()
                if record.payload.backend in backends and record.relay.at and record.relay.at <= now
            ]
            waiting.sort(key=lambda pair: pair[0])
            taken = [with_leaves(record, {"relay.at": until}) for _, record in waiting[:limit]]
            self._records.update({record.task_id: record for record in taken})
            return [*taken]

    def set_aside(self, task_id: str, reason: str, *, until: datetime) -> None:
        """See `ResultStore.set_aside`."""
        with self._lock:
            if record := self._records.get(task_id):
                relay = RelayStatus(until, record.relay.failures + 1, reason)
                self._records[task_id] = attrs.evolve(record, relay=relay)

    def backlog(self, backends: Collection[str]) -> Backlog:
        """See `ResultStore.backlog`."""
        with self._lock:
            waiting = [
                (record.relay.at, record.relay.error)
                for record in self._records.values()
                if record.payload.backend in backends and record.relay.failures and record.relay.at
            ]
        if not waiting:
            return Backlog(count=0)
        next_at, error = min(waiting)
        return Backlog(count=len(waiting), next_at=next_at, error=error)

    def schedule_states(self) -> dict[str, ScheduleState]:
        """See `ResultStore.schedule_states`."""
        with self._lock:
            return dict(self._schedules)

    def replace_schedule(self, seen: ScheduleState | None, then: ScheduleState) -> bool:
        """See `ResultStore.replace_schedule`."""
        with self._lock:
            if self._schedules.get(then.name) != seen:
                return False
            self._schedules[then.name] = then
            return True

    def count_finished(self, states: Collection[State], before: datetime) -> int:
        """See `ResultStore.count_finished`."""
        with self._lock:
            return len(self._finished(states, before))

    def prune(self, states: Collection[State], before: datetime, *, limit: int) -> int:
        """See `ResultStore.prune`."""
        with self._lock:
            finished = self._finished(states, before)[:limit]
            for task_id in finished:
                del self._records[task_id]
            return len(finished)

    def _finished(self, states: Collection[State], before: datetime) -> list[str]:
        return [
            record.task_id for record in self._records.values() if may_prune(record, states, before)
        ]

    def failure_groups(
        self,
        *,
        since: datetime | None = None,
        replayed: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[FailureGroup]:
        """See `ResultStore.failure_groups`."""
        times: dict[tuple[str, str], list[datetime]] = {}
        with self._lock:
            for record in self._records.values():
                group = group_of(record)
                if group is None or record.finished_at is None:
                    continue
                path, failure = group
                counted = FailureSelection(
                    task_path=path, failure=failure, since=since, replayed=replayed
                )
                if selects(counted, record):
                    times.setdefault(group, []).append(record.finished_at)
        groups = [
            FailureGroup(
                task_path=path, failure=failure, count=len(at), first=min(at), last=max(at)
            )
            for (path, failure), at in times.items()
        ]
        groups.sort(key=lambda g: (g.task_path, g.failure))
        groups.sort(key=lambda g: g.last, reverse=True)
        return groups[offset:][:limit]

    def failed_tasks(self, selection: FailureSelection, *, limit: int) -> list[FailedTask]:
        """See `ResultStore.failed_tasks`."""
        with self._lock:
            return sorted(
                FailedTask(record.finished_at, record.task_id)
                for record in self._records.values()
                if selects(selection, record) and record.finished_at
            )[:limit]

    def count_failures(self, selection: FailureSelection) -> int:
        """See `ResultStore.count_failures`."""
        with self._lock:
            return sum(selects(selection, record) for record in self._records.values())

    def delete_failures(self, selection: FailureSelection, *, limit: int) -> int:
        """See `ResultStore.delete_failures`."""
        with self._lock:
            chosen = self.failed_tasks(selection, limit=limit)
            for failed in chosen:
                del self._records[failed.task_id]
            return len(chosen)

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """See `ResultStore.atomic`."""
        with self._lock:
            outermost = self._commit_hooks is None
            before = dict(self._records), dict(self._schedules)
            hooks = [] if self._commit_hooks is None else self._commit_hooks
            already = len(hooks)
            self._commit_hooks = hooks
            try:
                yield
            except BaseException:
                self._records, self._schedules = before
                del hooks[already:]
                raise
            finally:
                if outermost:
                    self._commit_hooks = None
        if outermost:
            for call in hooks:
                self._after_commit(call)

    def on_commit(self, call: Callable[[], None]) -> None:
        """See `ResultStore.on_commit`."""
        with self._lock:
            if self._commit_hooks is not None:
                self._commit_hooks.append(call)
                return
        self._after_commit(call)

    @staticmethod
    def _after_commit(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            logger.exception(
                "A function that was registered with on_commit failed. The commit itself succeeded."
            )

    def insist[R](self, call: Callable[[], R], go_on: Callable[[], bool]) -> R:  # noqa: ARG002 - the port's signature
        """See `ResultStore.insist`. This store is always available, so one call is enough."""
        return call()

    def rest(self) -> None:
        """See `ResultStore.rest`. This store has no connections, so it does nothing."""

    def release(self) -> None:
        """See `ResultStore.release`. This store has no connections, so it does nothing."""


class MemoryTokens:
    """A `TokenVerifier` that issues tokens like those of Google, and accepts only its own tokens.

    Args:
        time: returns the time, in seconds since the epoch.
    """

    def __init__(self, *, time: Callable[[], float]) -> None:
        self._time = time
        self._issued: dict[str, Claims] = {}

    def issue(self, oidc: OidcIdentity) -> str:
        """Return a token for a service account and an audience. Its `exp` is in an hour."""
        now = int(self._time())
        claims = {
            "iss": "https://accounts.google.com",
            "aud": oidc.audience,
            "email": oidc.service_account_email,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        }
        parts = ({"alg": "memory"}, claims, {"serial": len(self._issued)})
        token = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in parts
        )
        self._issued[token] = claims
        return token

    def verify(self, token: str, *, may_wait: bool) -> Claims:  # noqa: ARG002 - the port's signature
        """See `TokenVerifier.verify`. It never waits."""
        claims = self._issued.get(token)
        if claims is None:
            raise InvalidTokenError("the token was not issued in this test")
        return claims
