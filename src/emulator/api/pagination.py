"""Pages of a list, and the tokens for the next page."""

import base64
import json
from collections.abc import Callable, Iterable

from ..errors import invalid

_LARGEST_PAGE = 3_500_000  # bytes; clients accept 4 MiB by default


class PageToken:
    """A page token. It contains the key of the last item on the page.

    The next page starts after this key, even if items were deleted.
    """

    @staticmethod
    def write(key: tuple[int | str, ...]) -> str:
        """Return the token for the items after `key`."""
        return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()

    @staticmethod
    def read(token: str) -> tuple[int | str, ...]:
        """Return the key in a token. For an empty token it is the smallest key.

        Raises:
            ApiError: INVALID_ARGUMENT, the token is invalid.
        """
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
    """Return one page of a list, and the token for the next page.

    The token is empty on the last page.

    Args:
        items: the whole list, sorted by `key`.
        key: returns the key of an item.
        size: the number of items that the client requests; 0 for `largest`.
        token: the token of the client; empty for the first page.
        largest: the maximum number of items on a page.
        weight: returns the size of an item in bytes. The page ends before its size exceeds the
            default message limit of gRPC clients.

    Raises:
        ApiError: INVALID_ARGUMENT, the size or the token is invalid.
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
