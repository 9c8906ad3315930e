"""What a forked child must not use as its parent left it: locks, channels, threads."""

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that a child has to make anew."""

    def after_fork_in_child(self) -> None:
        """Replace what may be locked, or be another process's. It must not wait for anything."""


_subjects: WeakSet[Forkable] = WeakSet()


def renew_in_children(subject: Forkable) -> None:
    """Have `subject` told in every child that this process forks, before anything else runs."""
    _subjects.add(subject)


def _in_child() -> None:
    for subject in list(_subjects):
        subject.after_fork_in_child()


if hasattr(os, "register_at_fork"):  # Windows has no forks.
    os.register_at_fork(after_in_child=_in_child)
