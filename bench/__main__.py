"""`python -m bench [NAME ...]`: runs all benchmarks, or those with these names; prints a table."""

import platform
import sys

import django
from django.conf import settings

from . import emulator, library, results


def main() -> None:
    settings.configure(
        **library.SETTINGS,
        TASKS={"default": {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend"}},
    )
    django.setup()
    print(f"Python {platform.python_version()}, Django {django.__version__}")
    wanted = sys.argv[1:]
    parts = (
        *(library.enqueue, library.execution, library.verification, library.start_up),
        results.results,
        *(emulator.creations, emulator.deliveries, emulator.latency),
        *(emulator.memory, emulator.cost_of_waiting),
    )
    for part in parts:
        if not wanted or part.__name__ in wanted:
            for row in part():
                print(row, flush=True)


main()
