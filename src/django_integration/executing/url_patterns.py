"""The URL pattern of the endpoint that executes tasks.

Without the app, nothing loads django.tasks before Django chooses the checks that it runs, and its
check of TASKS may not be among them. The URLconf is always checked: there the endpoint sees to it.
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
        """Django's checks of the pattern, and those of `TASKS` if nobody else sees to them."""
        from ..checks import check_backend, check_deployment
        from ..registry import backends

        messages = super().check()
        if sees_to_checks(self):
            for backend in backends():
                messages += check_backend(backend)
            if "--deploy" in sys.argv:
                # The app would have registered these. Django does not tell a pattern whether they
                # were asked for.
                messages += check_deployment()
        return messages


def execution_endpoint(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """A pattern as `path()` makes."""
    return _ExecutionPattern(RoutePattern(route, name=name, is_endpoint=True), view, name=name)


def sees_to_checks(pattern: URLPattern | None = None) -> bool:
    """Whether an endpoint in the URLconf has `TASKS` checked, because the app is missing.

    Args:
        pattern: whether this one does, for several would tell everything as often.
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
