"""Which thread asks the database for a coroutine task.

Under ASGI, Django gives each request a thread of its own for synchronous code, and with it
connections of its own. A coroutine task that waits shall hold neither. So the records of coroutine
tasks are read and written by a few threads that all requests share.
"""

from __future__ import annotations

from collections.abc import Callable

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.db import connections

from ...core.ports import ResultStore
from ..runtime import get_runtime


def _has_own_thread() -> bool:
    """Whether this request has, or would get, a thread of its own: it is served over ASGI."""
    if getattr(AsyncToSync.executors, "current", None):
        return False  # It is served by a thread that waits for it, whose connections it uses.
    return SyncToAsync.thread_sensitive_context.get(None) is not None


async def in_store_thread[**P, R](
    store: ResultStore, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Call what asks the store, without holding a thread or a connection for this request."""
    if not _has_own_thread():
        return await sync_to_async(call)(*args, **kwargs)

    def ask() -> R:
        _close_old_connections()
        try:
            return call(*args, **kwargs)
        finally:
            store.rest()
            _close_old_connections()

    pool = get_runtime().store_threads
    return await sync_to_async(ask, thread_sensitive=False, executor=pool)()


async def in_used_thread[**P, R](
    call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R | None:
    """Call in the thread that synchronous code of this request has run in; None if none has."""
    if _has_own_thread():
        context = SyncToAsync.thread_sensitive_context.get()
        if context not in SyncToAsync.context_to_thread_executor:
            return None
    return await sync_to_async(call)(*args, **kwargs)


def _close_old_connections() -> None:
    """As Django does before and after each request."""
    for connection in connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()
