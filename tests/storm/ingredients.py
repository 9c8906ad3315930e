"""The parts of a storm. `STORM_OF=few,closing` runs a storm with only these parts."""

import os

ALL = {
    "kills": "SIGKILL hits workers, relays, the process that orders, and the emulator",
    "chaos": "the emulator delivers twice, drops answers, refuses and delays",
    "few": "queues of three attempts and of one",
    "closing": "the site closes for seconds",
    "pool": "on PostgreSQL each worker has a pool with fewer connections than threads",
    "policies": "tasks with policies, and tasks that raise Retry, Snooze and Discard",
    "open": "tasks that leave transactions open, or close the connection",
    "database": "the database crashes or is shut down, and starts again; SQLite is locked",
}


def chosen() -> frozenset[str]:
    """Return the names of the parts of this storm, from `STORM_OF` in the environment."""
    names = os.environ.get("STORM_OF")
    found = frozenset(ALL if names is None else filter(None, names.split(",")))
    assert found <= set(ALL), f"STORM_OF knows {', '.join(ALL)}"
    return found
