"""The exceptions, one small tree. A message says what was wrong, with which value, what to do."""

from collections.abc import Sequence

import attrs


class CloudTasksError(Exception):
    """Base of everything this package raises on its own account.

    Attributes:
        unanswered: whether Cloud Tasks did not answer in time; then the next call would wait as
            long.
    """

    unanswered: bool = False


class ConfigurationError(CloudTasksError):
    """The settings, or what was detected in their place, cannot work."""


@attrs.frozen
class OptionFault:
    """What is wrong with one option of a backend."""

    option: str
    message: str


class OptionsError(ConfigurationError):
    """`OPTIONS` of a backend has faults; `faults` lists them all."""

    def __init__(self, faults: Sequence[OptionFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in faults))


class InvalidNameError(CloudTasksError, ValueError):
    """A resource name or id that Cloud Tasks would refuse."""


class InvalidPayloadError(CloudTasksError, ValueError):
    """A request body that is no task; `faults` lists everything wrong with it."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class InvalidTokenError(CloudTasksError):
    """An identity token that proves nothing. The message never contains the token."""


class EnqueueError(CloudTasksError):
    """A task was not put into its queue, or it is not known whether it was."""


class PayloadTooLargeError(EnqueueError):
    """The task is larger than Cloud Tasks stores; nothing was sent."""

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(message)


class QueueNotFoundError(EnqueueError):
    """The queue does not exist in that project and location."""


class PermissionDeniedError(EnqueueError):
    """The credentials are missing, or may not create tasks in that queue."""


class ServiceUnavailableError(EnqueueError):
    """Cloud Tasks did not take the task in time, the retries included."""

    unanswered = True


class ControlError(CloudTasksError):
    """Nothing could be done to a task that is in its queue."""

    def __init__(self, message: str, *, unanswered: bool = False) -> None:
        self.unanswered = unanswered
        super().__init__(message)


class CancelError(ControlError):
    """A task could not be cancelled, or it is not known whether it was."""


class RunNowError(ControlError):
    """Cloud Tasks could not be told to run a task now."""


class LookUpError(ControlError):
    """A task could not be looked up in its queue.

    Attributes:
        forbidden: whether the permission is missing.
    """

    def __init__(self, message: str, *, unanswered: bool = False, forbidden: bool = False) -> None:
        self.forbidden = forbidden
        super().__init__(message, unanswered=unanswered)


class TaskCancelledError(CloudTasksError):
    """Stands among the errors of a result for a task that was cancelled."""


class WorkerLostError(CloudTasksError):
    """Stands among the errors of a result for an attempt whose worker died."""


class TaskLostError(CloudTasksError):
    """Stands among the errors of a result for a task that Cloud Tasks does not have any more."""


class UncommittedWorkError(CloudTasksError):
    """A task returned, and what it did in a database cannot be committed."""


class UnfinishedWorkError(CloudTasksError):
    """A task returned something that has not run yet, such as a generator."""


class UnserializableReturnError(CloudTasksError):
    """A task did its work and returned what JSON cannot carry."""

    def __init__(self, kind: type) -> None:
        super().__init__(
            f"The task returned a value of the type {kind.__qualname__} that cannot be kept as "
            "JSON; return text, numbers, lists and dicts only."
        )


class UnreadableRecordError(CloudTasksError):
    """The record of a task is damaged, or a newer version of this package wrote it."""


class IllegalTransitionError(CloudTasksError):
    """The record of a task is not in a situation in which this can happen to it."""


class TaskRejectedError(EnqueueError):
    """Cloud Tasks refused the task for another reason, which the message carries."""
