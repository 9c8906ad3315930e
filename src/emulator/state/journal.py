"""The journal of the state machine: it records every change before the change is made.

A journal may refuse a change, for example because the disk is full. It then raises `ApiError`, and
the change is not made.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from .model import Queue, Task


class Journal(Protocol):
    """Records every change before it is made."""

    def together(self) -> AbstractContextManager[None]:
        """A context manager: the changes inside are recorded together, or none of them is.

        Raises:
            ApiError: at the end of the context at the latest, with nothing recorded.
        """

    def queue_changed(self, queue: Queue) -> None:
        """A queue is created or changed."""

    def queue_deleted(self, name: str, until: int) -> None:
        """A queue and its tasks are deleted. Its name stays reserved until that time."""

    def task_changed(self, task: Task) -> None:
        """A task is created or changed."""

    def task_removed(self, task: Task, until: int) -> None:
        """A task is removed. Its name stays reserved until that time."""

    def emptied(self) -> None:
        """Everything is removed."""


class NullJournal:
    """A `Journal` that records nothing."""

    def together(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def queue_changed(self, queue: Queue) -> None:
        """Do nothing."""

    def queue_deleted(self, name: str, until: int) -> None:
        """Do nothing."""

    def task_changed(self, task: Task) -> None:
        """Do nothing."""

    def task_removed(self, task: Task, until: int) -> None:
        """Do nothing."""

    def emptied(self) -> None:
        """Do nothing."""
