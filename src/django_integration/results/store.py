"""The result store in the database of the site."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import batched

import attrs
from django.db import Error as DatabaseFault
from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connections,
    transaction,
)
from django.db.models import (
    BigIntegerField,
    Count,
    ExpressionWrapper,
    F,
    Max,
    Min,
    Q,
    QuerySet,
    Value,
)

from ...core.errors import ConfigurationError, UnreadableRecordError
from ...core.failures import FailedTask, FailureGroup, FailureSelection
from ...core.records import (
    Backlog,
    State,
    TaskRecord,
    UnreadableRecord,
    fence_of,
)
from ...core.schedules import ScheduleState
from ..models import COLUMNS, StoredSchedule, StoredTask, unreadable
from ..timezones import from_site, to_site
from ..transactions import commit_own
from ..transactions import renew as renew_connection

_DELAYS = (0.0, 0.2, 1.0)  # seconds before another try
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 1.0  # seconds; the same for `insist`
_SHORT = timedelta(seconds=0.2)  # a transaction that takes longer extends the leases
_MICROSECOND = timedelta(microseconds=1)
_DUPLICATE_KEY = 1062  # of MySQL and MariaDB
_NO_TABLE = ("no such table", "does not exist", "doesn't exist")
_BATCH = 500  # keys in one statement; every database accepts as many


class DatabaseResultStore:
    """A `ResultStore` in the table of `StoredTask`.

    Args:
        database: alias in `DATABASES`.
        clock: returns the time (aware) for leases.
    """

    def __init__(self, database: str, *, clock: Callable[[], datetime]) -> None:
        self.database = database
        self._clock = clock

    @property
    def _rows(self) -> QuerySet[StoredTask]:
        rows: QuerySet[StoredTask] = StoredTask.objects.using(self.database)
        return rows

    def add(self, record: TaskRecord) -> None:
        """See `ResultStore.add`."""
        row = StoredTask(**COLUMNS.encode(record))
        # Django 6.0 asks SQLite for its limits before it has a connection.
        connections[self.database].ensure_connection()
        try:
            if connections[self.database].vendor == "mysql":
                self._insert_strictly(row)
            else:
                self._rows.bulk_create([row], ignore_conflicts=True)
        except (OperationalError, ProgrammingError) as error:
            table = StoredTask._meta.db_table
            said = str(error).replace(table, "")
            if table in str(error) and "column" not in said and any(s in said for s in _NO_TABLE):
                raise ConfigurationError(
                    f"The database {self.database!r} has no table {table}, which RESULTS needs. "
                    f"Run: python manage.py migrate --database {self.database}"
                ) from error
            raise
        commit_own(connections[self.database])

    def _insert_strictly(self, row: StoredTask) -> None:
        """Insert the row unless it exists. INSERT IGNORE of MySQL would truncate long values."""
        try:
            with transaction.atomic(using=self.database):
                row.save(using=self.database, force_insert=True)
        except IntegrityError as error:
            if error.args[:1] != (_DUPLICATE_KEY,):
                raise

    def get(self, task_id: str) -> TaskRecord | None:
        """See `ResultStore.get`."""
        return self._persistently(lambda: self._read(task_id))

    def replace(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """See `ResultStore.replace`."""
        columns, tries = COLUMNS.encode_changes(seen, then), 0
        if not columns:
            return self._as(seen).exists()

        def update() -> bool:
            nonlocal tries
            tries += 1
            if self._as(seen).update(**columns):
                return True
            if connections[self.database].in_atomic_block and self._as(seen).exists():
                # With REPEATABLE READ, MySQL writes to the current row but reads an older version.
                # A decision on the older version would be repeated without an end. PostgreSQL
                # refuses such a transaction itself.
                raise OperationalError(
                    f"The record of the task {seen.task_id} has changed since this transaction "
                    "began, and the transaction cannot see it."
                )
            # An earlier try may have written this, and only its response was lost.
            return tries > 1 and fence_of(seen) != fence_of(then) and self._as(then).exists()

        return self._persistently(update)

    def renew(self, seen: TaskRecord, then: TaskRecord) -> bool:
        """See `ResultStore.renew`."""
        self.leave_the_pool()
        if not connections[self.database].features.has_select_for_update_skip_locked:
            return self.replace(seen, then)
        with transaction.atomic(using=self.database):
            free = self._as(seen).select_for_update(skip_locked=True).order_by()
            if list(free.values_list("pk", flat=True)):
                return self.replace(seen, then)
        return self._as(seen).exists()

    def due(
        self, backends: Collection[str], *, now: datetime, until: datetime, limit: int
    ) -> list[TaskRecord | UnreadableRecord]:
        """See `ResultStore.due`."""
        skip = connections[self.database].features.has_select_for_update_skip_locked
        with transaction.atomic(using=self.database):
            waiting = self._rows.filter(relay_at__lte=now, backend__in=backends)
            # SQLite has no locks to skip, so two relays can take the same record. That is harmless,
            # because the name of the Cloud Task prevents a second one.
            first = waiting.select_for_update(skip_locked=True) if skip else waiting
            keys = list(first.order_by("relay_at").values_list("pk", flat=True)[:limit])
            for some in batched(keys, _BATCH):
                waiting.filter(pk__in=some).update(relay_at=until)
        return [found for some in batched(keys, _BATCH) for found in self._each(some)]

    def set_aside(self, task_id: str, reason: str, *, until: datetime) -> None:
        """See `ResultStore.set_aside`."""
        self._rows.filter(pk=task_id).update(
            relay_at=until, relay_failures=F("relay_failures") + 1, relay_error=reason
        )

    def _each(self, keys: Sequence[str]) -> Iterator[TaskRecord | UnreadableRecord]:
        """Yield the records with these keys, in order. An unreadable record does not stop this."""
        try:
            rows = self._rows.in_bulk(keys)
        except DatabaseFault:
            raise
        except Exception:  # noqa: BLE001 - a column that Django cannot read: each is asked alone
            rows = {}
        for key in keys:
            try:
                record = rows[key].record if key in rows else self._read(key)
            except UnreadableRecordError as error:
                yield UnreadableRecord(key, str(error))
            else:
                if record is not None:
                    yield record

    def _read(self, task_id: str) -> TaskRecord | None:
        try:
            row = next(iter(self._rows.filter(pk=task_id).order_by()), None)
        except DatabaseFault:
            raise  # The error does not concern the record.
        except Exception as error:
            raise unreadable(task_id, error) from error
        return None if row is None else row.record

    def backlog(self, backends: Collection[str]) -> Backlog:
        """See `ResultStore.backlog`."""
        waiting = self._rows.filter(
            relay_failures__gt=0, relay_at__isnull=False, backend__in=backends
        )
        first = waiting.order_by("relay_at").values_list("relay_at", "relay_error").first()
        if first is None:
            return Backlog(count=0)
        return Backlog(count=waiting.count(), next_at=first[0], error=first[1])

    def schedule_states(self) -> dict[str, ScheduleState]:
        """See `ResultStore.schedule_states`."""
        rows = self._persistently(lambda: list(StoredSchedule.objects.using(self.database)))
        return {
            row.name: ScheduleState(
                name=row.name, rhythm=row.rhythm, ticked_at=row.ticked_at, paused=row.paused
            )
            for row in rows
        }

    def replace_schedule(self, seen: ScheduleState | None, then: ScheduleState) -> bool:
        """See `ResultStore.replace_schedule`."""
        rows = StoredSchedule.objects.using(self.database)
        if seen is None:
            _, is_new = rows.get_or_create(name=then.name, defaults=attrs.asdict(then))
            return bool(is_new)
        return bool(rows.filter(**attrs.asdict(seen)).update(**attrs.asdict(then)))

    def count_finished(self, states: Collection[State], before: datetime) -> int:
        """See `ResultStore.count_finished`."""
        return sum(self._finished(state, before).count() for state in states)

    def prune(self, states: Collection[State], before: datetime, *, limit: int) -> int:
        """See `ResultStore.prune`."""
        deleted = 0
        for state in states:
            while deleted < limit:
                old = self._finished(state, before)
                some = old.order_by("finished_at").values_list("pk", flat=True)
                keys = list(some[: min(_BATCH, limit - deleted)])
                if not keys:
                    break
                # The conditions are checked again, because a record can change meanwhile.
                deleted += old.filter(pk__in=keys).delete()[0]
        return deleted

    def _finished(self, state: State, before: datetime) -> QuerySet[StoredTask]:
        """Return `may_prune` as a query for one state. The index has the rows in order."""
        return self._rows.filter(status=state.value, finished_at__lt=to_site(before))

    def failure_groups(
        self,
        *,
        since: datetime | None = None,
        replayed: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[FailureGroup]:
        """See `ResultStore.failure_groups`. The query reads only the index of failures."""
        rows = self._failures(since=since, replayed=replayed).values("failure", "task_path")
        groups = rows.annotate(
            count=Count("*"), first=Min("finished_at"), last=Max("finished_at")
        ).order_by("-last", "task_path", "failure")
        return [
            FailureGroup(
                task_path=group["task_path"],
                failure=group["failure"],
                count=group["count"],
                first=from_site(group["first"]),
                last=from_site(group["last"]),
            )
            for group in groups[offset : None if limit is None else offset + limit]
            if group["first"] and group["last"]
        ]

    def failed_tasks(self, selection: FailureSelection, *, limit: int) -> list[FailedTask]:
        """See `ResultStore.failed_tasks`."""
        rows = self._chosen(selection).order_by("finished_at", "task_id")
        places = rows.values_list("finished_at", "task_id")[:limit]
        return [FailedTask(from_site(finished), key) for finished, key in places if finished]

    def count_failures(self, selection: FailureSelection) -> int:
        """See `ResultStore.count_failures`."""
        return self._chosen(selection).order_by().count()

    def delete_failures(self, selection: FailureSelection, *, limit: int) -> int:
        """See `ResultStore.delete_failures`."""
        deleted = 0
        while deleted < limit:
            some = self.failed_tasks(selection, limit=min(_BATCH, limit - deleted))
            if not some:
                break
            # The conditions are checked again, because a task can be replayed meanwhile.
            keys = [failed.task_id for failed in some]
            deleted += self._chosen(selection).filter(pk__in=keys).delete()[0]
        return deleted

    def _chosen(self, selection: FailureSelection) -> QuerySet[StoredTask]:
        """Return the rows that `core.failures.selects` selects."""
        rows = self._failures(since=selection.since, replayed=selection.replayed).filter(
            failure=selection.failure, task_path=selection.task_path
        )
        if selection.until is not None:
            rows = rows.filter(finished_at__lte=to_site(selection.until))
        if selection.after is not None:
            last = to_site(selection.after.finished_at)
            behind = Q(finished_at__gt=last) | Q(task_id__gt=selection.after.task_id)
            rows = rows.filter(behind, finished_at__gte=last)
        return rows

    def _failures(self, *, since: datetime | None, replayed: bool) -> QuerySet[StoredTask]:
        """Return the rows of final failures."""
        rows = self._rows.filter(failure__gt="", finished_at__isnull=False).order_by()
        if since is not None:
            rows = rows.filter(finished_at__gte=to_site(since))
        return rows if replayed else rows.filter(replayed_as="")

    def _as(self, record: TaskRecord) -> QuerySet[StoredTask]:
        """Select the row if its fence equals the fence of the record."""
        return self._rows.filter(pk=record.task_id, **COLUMNS.encode_fence(record))

    def _persistently[R](self, call: Callable[[], R]) -> R:
        """Make a call, and repeat it on a new connection if the connection broke.

        A call in a transaction is not repeated, because the transaction is lost.
        """
        if connections[self.database].in_atomic_block:
            return call()
        for delay in _DELAYS:
            try:
                return self._committed(call)
            except (OperationalError, InterfaceError):
                connection = connections[self.database]
                if connection.is_usable():
                    raise  # The connection works, so a repetition would fail too.
                connection.close()
                time.sleep(delay)
        return self._committed(call)

    def insist[R](self, call: Callable[[], R], go_on: Callable[[], bool]) -> R:
        """See `ResultStore.insist`.

        The first failure can come from what a task did to the connection. So the next try uses a
        new connection.
        """
        delay, is_new = _FIRST_DELAY, False
        while True:
            try:
                return call()
            except (OperationalError, InterfaceError):
                if connections[self.database].in_atomic_block or not go_on():
                    raise
            except Exception:
                if connections[self.database].in_atomic_block or is_new:
                    raise
            renew_connection(self.database)
            is_new = True
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    def _committed[R](self, call: Callable[[], R]) -> R:
        """Make a call, commit, and return the result of the call."""
        answer = call()
        commit_own(connections[self.database])
        return answer

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """See `ResultStore.atomic`.

        In SQLite a transaction prevents all other writes, so no process can renew its lease
        meanwhile. So this transaction extends the leases that were valid at its beginning, also if
        the work inside is rolled back. It does so before another process can write.
        """
        connection = connections[self.database]
        if connection.features.has_select_for_update or connection.in_atomic_block:
            with transaction.atomic(using=self.database):
                yield
            return
        undone: BaseException | None = None
        with transaction.atomic(using=self.database):
            began, clock = self._clock(), time.monotonic()
            try:
                with transaction.atomic(using=self.database):
                    yield
            except BaseException as error:
                if connection.needs_rollback or connection.connection is None:
                    raise  # The whole transaction is lost.
                undone = error
            held = timedelta(seconds=time.monotonic() - clock)
            if held > _SHORT:
                self._extend_leases(began, held)
        if undone is not None:
            raise undone

    def _extend_leases(self, began: datetime, held: timedelta) -> None:
        """Extend the leases that could not be renewed, by the time of the transaction."""
        alive = self._rows.filter(status=State.RUNNING.value, claim_expires_at__gt=began)
        longer = F("claim_expires_at") + Value(held // _MICROSECOND, output_field=BigIntegerField())
        alive.update(claim_expires_at=ExpressionWrapper(longer, output_field=BigIntegerField()))

    def on_commit(self, call: Callable[[], None]) -> None:
        """See `ResultStore.on_commit`."""
        transaction.on_commit(call, using=self.database, robust=True)

    def rest(self) -> None:
        """See `ResultStore.rest`. It returns a connection to its pool."""
        connection = connections[self.database]
        if connection.settings_dict["OPTIONS"].get("pool") and not connection.in_atomic_block:
            connection.close()

    def release(self) -> None:
        """See `ResultStore.release`."""
        connections[self.database].close()

    def leave_the_pool(self) -> None:
        """Replace the pooled connection of this thread by a connection of its own."""
        connection = connections[self.database]
        options = dict(connection.settings_dict["OPTIONS"])
        if options.pop("pool", None):
            entry = {**connection.settings_dict, "OPTIONS": options}
            connections[self.database] = type(connection)(entry, self.database)
