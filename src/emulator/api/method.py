"""One method of the API: the class of its request, and the function that handles it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from google.cloud.tasks_v2 import types

from ..errors import ApiError, Status
from ..messages.wire import Message

logger = logging.getLogger(__name__)

type MessageClass = Any
type Handler = Callable[[Message], Message]

_CLOUD_TASKS = "/google.cloud.tasks.v2.CloudTasks/"


@attrs.frozen
class Method:
    """A method of the API."""

    request: MessageClass
    handle: Handler

    def answer(self, request: Message) -> Message:
        """Handle a request and return the response.

        Raises:
            ApiError: the request is refused. An unexpected exception becomes INTERNAL and is
                logged, so that other calls on the same connection go on.
        """
        try:
            return self.handle(request)
        except ApiError:
            raise
        except Exception as error:
            logger.exception("%s failed", type(request).__name__)
            raise ApiError(Status.INTERNAL, "Internal error encountered.") from error


def cloud_tasks_path(name: str) -> str:
    """The gRPC path of a method of the service `CloudTasks`."""
    return _CLOUD_TASKS + name


def cloud_tasks_methods(handlers: Mapping[str, Handler]) -> dict[str, Method]:
    """Methods of the service `CloudTasks` by gRPC path, from handlers by method name.

    Older versions of google-cloud-tasks lack the messages of some methods. Those methods are left
    out.
    """
    return {
        cloud_tasks_path(name): Method(request.pb(), handle)
        for name, handle in handlers.items()
        if (request := getattr(types, f"{name}Request", None)) is not None
    }
