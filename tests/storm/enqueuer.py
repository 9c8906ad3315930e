"""`python -m tests.storm.enqueuer SEED COUNT`: orders in transactions, some rolled back."""

import random
import sys
import time

import django


def main() -> None:
    django.setup()
    from django.db import OperationalError, transaction

    from tests.models import Order
    from tests.storm.tasks import KINDS

    draw = random.Random(sys.argv[1])
    weights = {"atomic": 8, "fails_at_first": 4, "outlasts_its_lease": 2, "enqueues_another": 3}
    for number in range(int(sys.argv[2])):
        kind = draw.choices([*KINDS], [weights.get(name, 4) for name in KINDS])[0]
        try:
            with transaction.atomic():
                result = KINDS[kind].enqueue(number)
                Order.objects.create(task_id=result.id, kind=kind, number=number)
                regretted = draw.random() < 0.15
                transaction.set_rollback(regretted)
        except OperationalError as error:  # SQLite is busy: as good as rolled back
            print("busy", error, flush=True)
        else:
            print("rolled back" if regretted else "ordered", flush=True)
        time.sleep(draw.random() * 0.03)  # customers do not come all at once


main()
