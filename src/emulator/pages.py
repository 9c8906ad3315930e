"""Pages of a list, and the tokens between them."""

import base64
import json
from collections.abc import Callable, Iterable

from .errors import invalid

_HEAVY = 3_500_000  # bytes; clients take 4 MiB by default


class PageToken:
    """Where a page ends: the key of its last item, so that nothing is skipped if others go."""

    @staticmethod
    def write(key: tuple[int | str, ...]) -> str:
        """The token that stands for everything behind `key`."""
        return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()

    @staticmethod
    def read(token: str) -> tuple[int | str, ...]:
        """The key in a token; less than any other for none."""
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
    """One page of a list that is sorted by `key`, and the token of the next, empty at the end.

    Args:
        size: how many items were asked for; 0 for as many as there may be, `largest`.
        weight: bytes of an item. A page ends before its answer outgrows what clients receive.
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
            if len(shown) == min(size or largest, largest) or (shown and total > _HEAVY):
                return shown, PageToken.write(key(shown[-1]))
            shown.append(item)
    except TypeError:
        raise invalid("The page token is invalid.") from None
    return shown, ""
