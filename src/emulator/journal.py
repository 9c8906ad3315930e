"""Who is told of every change: a storage, or nobody.

A journal may refuse (a full disk): it raises `ApiError`, and what was asked for does not happen.
"""

from typing import Protocol

from .values import Queue, Task


class Journal(Protocol):
    """Is told of every change before it is made."""

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
