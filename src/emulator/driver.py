"""Between the API and whoever runs it: what a method is, and who acts on what it changed."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from .errors import ApiError, Status
from .values import Attempt
from .wire import Message

logger = logging.getLogger(__name__)

type MessageClass = Any


class Driver(Protocol):
    """Who acts on what the API changed."""

    def now(self) -> int:
        """The time, in nanoseconds since the epoch."""

    def touched(self, queue: str) -> None:
        """Something about the queue changed: dispatch what it has, and see to what comes next."""

    def begin(self, attempt: Attempt) -> None:
        """Make the attempt."""

    def log(self, event: str, **facts: object) -> None:
        """Tell of an event."""


@attrs.frozen
class Method:
    """One method: the class of its request, and what answers it."""

    request: MessageClass
    handle: Callable[[Message], Message]

    def answer(self, request: Message) -> Message:
        """Answer a request.

        Raises:
            ApiError: it is refused; INTERNAL for a fault of the emulator's own, which is logged
                and must not take other calls with it.
        """
        try:
            return self.handle(request)
        except ApiError:
            raise
        except Exception as error:
            logger.exception("%s failed", type(request).__name__)
            raise ApiError(Status.INTERNAL, "Internal error encountered.") from error
