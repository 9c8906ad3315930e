"""The threads that use the database for coroutine tasks.

With ASGI, Django gives each request its own thread for synchronous code, and this thread has its
own database connections. A coroutine task that waits should hold neither a thread nor a connection.
So a few threads, which all requests share, read and write the records of coroutine tasks.
"""

from __future__ import annotations

from collections.abc import Callable

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async
from django.db import connections

from ...core.ports import ResultStore
from ..runtime import get_runtime


def _has_own_thread() -> bool:
    """Return whether synchronous code of this request has its own thread, as with ASGI."""
    if getattr(AsyncToSync.executors, "current", None):
        return False  # A synchronous thread waits for this coroutine and provides its connections.
    return SyncToAsync.thread_sensitive_context.get(None) is not None


async def in_store_thread[**P, R](
    store: ResultStore, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Call a function that uses the store. Return its result.

    With ASGI it runs in one of the shared threads, so that the request keeps no thread and no
    connection.
    """
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
    """Call a function in the thread of this request's synchronous code. Return its result.

    With ASGI the result is None, without a call, if the request has not used such a thread.
    """
    if _has_own_thread():
        context = SyncToAsync.thread_sensitive_context.get()
        if context not in SyncToAsync.context_to_thread_executor:
            return None
    return await sync_to_async(call)(*args, **kwargs)


def _close_old_connections() -> None:
    """Close unusable and old connections, as Django does before and after each request."""
    for connection in connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()
