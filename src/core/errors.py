"""The exceptions of this package.

A message says what is wrong, with which value, and what to do.
"""

from collections.abc import Sequence

import attrs


class CloudTasksError(Exception):
    """The base class of the exceptions of this package.

    Attributes:
        unanswered: whether Cloud Tasks did not answer in time. The next call would then probably
            get no answer either.
    """

    unanswered: bool = False


class ConfigurationError(CloudTasksError):
    """A setting, an environment variable or a detected value is missing or not valid."""


@attrs.frozen
class OptionFault:
    """A fault in one option of a backend.

    Attributes:
        option: the name of the option.
        message: what is wrong, for people.
    """

    option: str
    message: str


class OptionsError(ConfigurationError):
    """`OPTIONS` of a backend has faults. `faults` contains all of them."""

    def __init__(self, faults: Sequence[OptionFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in faults))


class InvalidNameError(CloudTasksError, ValueError):
    """Cloud Tasks would refuse this resource name or id."""


class InvalidPayloadError(CloudTasksError, ValueError):
    """A request body does not contain a task. `faults` contains all its faults."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class InvalidTokenError(CloudTasksError):
    """An identity token is not valid. The message never contains the token."""


class EnqueueError(CloudTasksError):
    """A task was not created in its queue, or it is not known whether it was created."""


class PayloadTooLargeError(EnqueueError):
    """The task is larger than Cloud Tasks allows. It was not sent.

    Attributes:
        size: the size of the task in bytes, as Cloud Tasks stores it.
        limit: the largest size that Cloud Tasks allows, in bytes.
    """

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(message)


class QueueNotFoundError(EnqueueError):
    """The queue does not exist in this project and location."""


class PermissionDeniedError(EnqueueError):
    """The credentials are missing, or do not have the permission to create tasks in the queue."""


class ServiceUnavailableError(EnqueueError):
    """Cloud Tasks did not accept the task in time. All repetitions of the call failed too."""

    unanswered = True


class ControlError(CloudTasksError):
    """Cloud Tasks did not delete, run or look up a task.

    Attributes:
        unanswered: see `CloudTasksError`.
    """

    def __init__(self, message: str, *, unanswered: bool = False) -> None:
        self.unanswered = unanswered
        super().__init__(message)


class CancelError(ControlError):
    """A task was not cancelled, or it is not known whether it was cancelled."""


class RunNowError(ControlError):
    """Cloud Tasks did not accept the request to run a task now."""


class LookUpError(ControlError):
    """Cloud Tasks did not answer whether a task is in its queue.

    Attributes:
        forbidden: whether the credentials are missing or do not have the permission.
    """

    def __init__(self, message: str, *, unanswered: bool = False, forbidden: bool = False) -> None:
        self.forbidden = forbidden
        super().__init__(message, unanswered=unanswered)


class AdministrationError(CloudTasksError):
    """Cloud Tasks or Cloud Scheduler refused a call of its administration, or did not answer.

    Attributes:
        forbidden: whether the account does not have the permission.
    """

    def __init__(self, message: str, *, forbidden: bool = False) -> None:
        super().__init__(message)
        self.forbidden = forbidden


class TaskCancelledError(CloudTasksError):
    """A task was cancelled. This class is never raised; it appears in the errors of a result."""


class WorkerLostError(CloudTasksError):
    """A worker died during an attempt. This class is never raised; it appears in the errors."""


class TaskLostError(CloudTasksError):
    """Cloud Tasks no longer has a task. This class is never raised; it appears in the errors."""


class UncommittedWorkError(CloudTasksError):
    """A task returned, but its work in a database cannot be committed."""


class UnfinishedWorkError(CloudTasksError):
    """A task returned an object whose code has not run yet, such as a generator."""


class UnserializableReturnError(CloudTasksError):
    """A task returned a value that JSON cannot represent."""

    def __init__(self, kind: type) -> None:
        super().__init__(
            f"The task returned a value of the type {kind.__qualname__} that cannot be kept as "
            "JSON. Return only text, numbers, lists and dicts."
        )


class UnreadableRecordError(CloudTasksError):
    """The record of a task is damaged, or was written by a newer version of this package."""


class IllegalTransitionError(CloudTasksError):
    """An event is not possible in the current situation of a task's record."""


class TaskRejectedError(EnqueueError):
    """Cloud Tasks refused the task for another reason. The message contains the reason."""
