"""Splitting a list into pages, and the tokens for the next page."""

import base64
import json
from collections.abc import Callable, Iterable

from ..errors import invalid

_LARGEST_PAGE = 3_500_000  # bytes; clients accept 4 MiB by default


class PageToken:
    """The key of a page's last item. The next page starts after it, even if items were deleted."""

    @staticmethod
    def write(key: tuple[int | str, ...]) -> str:
        """The token for the items after `key`."""
        return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()

    @staticmethod
    def read(token: str) -> tuple[int | str, ...]:
        """The key in a token. An empty token gives the smallest key."""
        if not token:
            return ()
        try:
            key = json.loads(base64.urlsafe_b64decode(token))
        except ValueError:
            key = None
        if not isinstance(key, list) or not all(isinstance(part, int | str) for part in key):
            raise invalid("The page token is invalid.")
        return tuple(key)


def page[T](
    items: Iterable[T],
    key: Callable[[T], tuple[int | str, ...]],
    *,
    size: int,
    token: str,
    largest: int,
    weight: Callable[[T], int] = lambda _: 0,
) -> tuple[list[T], str]:
    """One page of a list that is sorted by `key`, and the token for the next page.

    The token is empty on the last page.

    Args:
        size: the number of items that the client asked for; 0 for `largest`.
        largest: the largest number of items on a page.
        weight: size of an item in bytes. A page ends before it exceeds what clients accept.
    """
    if size < 0:
        raise invalid("The page size cannot be negative.")
    after = PageToken.read(token)
    shown: list[T] = []
    total = 0
    try:
        for item in items:
            if key(item) <= after:
                continue
            total += weight(item)
            if len(shown) == min(size or largest, largest) or (shown and total > _LARGEST_PAGE):
                return shown, PageToken.write(key(shown[-1]))
            shown.append(item)
    except TypeError:
        raise invalid("The page token is invalid.") from None
    return shown, ""
