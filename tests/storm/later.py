"""`python -m tests.storm.later SECONDS`: runs a relay once, with a clock that is ahead."""

import sys
from datetime import UTC, datetime, timedelta

import django


def main() -> None:
    django.setup()
    from django.core.management import call_command
    from django_tasks_cloud_tasks.django_integration.runtime import get_runtime

    ahead = timedelta(seconds=float(sys.argv[1]))
    get_runtime().clock = lambda: datetime.now(UTC) + ahead
    call_command("cloudtasks_relay", once=True)


main()
