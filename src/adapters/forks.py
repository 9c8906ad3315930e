"""Renewing objects in forked children. A child must not use its parent's locks or channels."""

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object that must be renewed in a forked child."""

    def after_fork_in_child(self) -> None:
        """Replace locks, which may be held, and resources of the parent. It must not block."""


_subjects: WeakSet[Forkable] = WeakSet()


def renew_in_children(subject: Forkable) -> None:
    """Call `subject.after_fork_in_child` in every forked child, immediately after the fork.

    Only a weak reference to `subject` is kept.
    """
    _subjects.add(subject)


def _in_child() -> None:
    for subject in list(_subjects):
        subject.after_fork_in_child()


if hasattr(os, "register_at_fork"):  # Windows has no forks.
    os.register_at_fork(after_in_child=_in_child)
