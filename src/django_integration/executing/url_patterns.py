"""The URL pattern of the endpoint that executes tasks.

If the app is not installed, `manage.py check` may run without Django's check of TASKS. That check
is registered when django.tasks is imported, and without the app this import may come too late.
Django always checks the URLconf, so in this case the pattern runs the checks of `TASKS`.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage
from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RoutePattern

from ..installation import APP


class _ExecutionPattern(URLPattern):
    def check(self) -> list[CheckMessage]:
        """Return the messages of Django's checks, and those of `TASKS` if the app is missing."""
        from ..checks import check_backend, check_deployment
        from ..registry import backends

        messages = super().check()
        if sees_to_checks(self):
            for backend in backends():
                messages += check_backend(backend)
            if "--deploy" in sys.argv:
                # The app would register these checks. Django does not pass `deploy` to a pattern,
                # so the command line is read.
                messages += check_deployment()
        return messages


def execution_endpoint(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """Return the pattern of the endpoint. The arguments are those of Django's `path()`."""
    return _ExecutionPattern(RoutePattern(route, name=name, is_endpoint=True), view, name=name)


def sees_to_checks(pattern: URLPattern | None = None) -> bool:
    """Return whether a pattern in the URLconf runs the checks of `TASKS`, as the app is missing.

    Args:
        pattern: return whether this pattern runs them. Only the first pattern does, so that each
            message appears once. None for any pattern.
    """
    if apps.is_installed(APP) or not getattr(settings, "ROOT_URLCONF", None):
        return False
    first = next(_endpoints(get_resolver()), None)
    return first is not None and pattern in {None, first}


def _endpoints(resolver: URLResolver) -> Iterator[URLPattern]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _endpoints(pattern)
        elif isinstance(pattern, _ExecutionPattern):
            yield pattern
