"""Who is told of every change: a storage, or nobody.

A journal may refuse (a full disk): it raises `ApiError`, and what was asked for does not happen.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from .values import Queue, Task


class Journal(Protocol):
    """Is told of every change before it is made."""

    def together(self) -> AbstractContextManager[None]:
        """What is told inside is kept as a whole, or refused as a whole: at the end at the latest.

        Raises:
            ApiError: from the context manager, with nothing kept.
        """

    def queue_changed(self, queue: Queue) -> None:
        """A queue was made or changed."""

    def queue_deleted(self, name: str, until: int) -> None:
        """A queue and its tasks are gone; its name stays taken until then."""

    def task_changed(self, task: Task) -> None:
        """A task was created, or moved on."""

    def task_removed(self, task: Task, until: int) -> None:
        """A task is gone; its name stays taken until then."""

    def emptied(self) -> None:
        """Everything is gone."""


class Forgetful:
    """`Journal` that keeps nothing."""

    def together(self) -> AbstractContextManager[None]:
        """Nothing is refused."""
        return nullcontext()

    def queue_changed(self, queue: Queue) -> None:
        """Nothing."""

    def queue_deleted(self, name: str, until: int) -> None:
        """Nothing."""

    def task_changed(self, task: Task) -> None:
        """Nothing."""

    def task_removed(self, task: Task, until: int) -> None:
        """Nothing."""

    def emptied(self) -> None:
        """Nothing."""
