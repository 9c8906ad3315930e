"""One method of the API: the class of its request, and the function that handles it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from google.cloud.tasks_v2 import types
from google.protobuf.empty_pb2 import Empty

from ..errors import ApiError, Status
from ..messages.wire import Message

logger = logging.getLogger(__name__)

type MessageClass = Any
type Handler = Callable[[Message], Message]

_CLOUD_TASKS = "/google.cloud.tasks.v2.CloudTasks/"
_CLOUD_SCHEDULER = "/google.cloud.scheduler.v1.CloudScheduler/"


@attrs.frozen
class Method:
    """A method of the API.

    Attributes:
        request: the class of the request message.
        handle: handles a request message. It returns the response or raises `ApiError`.
        is_refused: whether `handle` raises for every message, so that `request` may be any class.
    """

    request: MessageClass
    handle: Handler
    is_refused: bool = False

    def answer(self, request: Message) -> Message:
        """Handle a request and return the response.

        Raises:
            ApiError: the request is refused. An unexpected exception is logged and becomes
                INTERNAL, so that the connection stays usable for other calls.
        """
        try:
            return self.handle(request)
        except ApiError:
            raise
        except Exception as error:
            logger.exception("The handler of %s failed.", type(request).__name__)
            raise ApiError(Status.INTERNAL, "Internal error encountered.") from error


def cloud_tasks_path(name: str) -> str:
    """Return the gRPC path of a method of the service `CloudTasks`."""
    return _CLOUD_TASKS + name


def cloud_scheduler_path(name: str) -> str:
    """Return the gRPC path of a method of the service `CloudScheduler`."""
    return _CLOUD_SCHEDULER + name


def refused_method(error: Callable[[], ApiError]) -> Method:
    """Return a method that refuses every request with the error that `error` returns."""

    def refuse(_: Message) -> Message:
        raise error()

    return Method(Empty, refuse, is_refused=True)


def cloud_tasks_methods(handlers: Mapping[str, Handler]) -> dict[str, Method]:
    """Convert handlers by method name of the service `CloudTasks` to methods by gRPC path.

    Older versions of google-cloud-tasks do not have the messages of some methods. The result does
    not contain these methods.
    """
    return {
        cloud_tasks_path(name): Method(request.pb(), handle)
        for name, handle in handlers.items()
        if (request := getattr(types, f"{name}Request", None)) is not None
    }
