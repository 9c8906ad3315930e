"""`python -m tests.storm.enqueuer SEED COUNT`: orders in transactions, some rolled back."""

import random
import sys
import time

import django


def main() -> None:
    django.setup()
    from django.db import InterfaceError, OperationalError, connection, transaction

    from tests.models import Order
    from tests.storm.tasks import KINDS, QUEUES

    draw = random.Random(sys.argv[1])
    weights = {"atomic": 8, "fails_at_first": 4, "outlasts_its_lease": 2, "enqueues_another": 3}
    for number in range(int(sys.argv[2])):
        kind = draw.choices([*KINDS], [weights.get(name, 4) for name in KINDS])[0]
        try:
            with transaction.atomic():
                queue = draw.choices([*QUEUES], [6, 2, 2])[0]
                result = KINDS[kind].using(queue_name=queue).enqueue(number)
                Order.objects.create(task_id=result.id, kind=kind, number=number, queue=queue)
                regretted = draw.random() < 0.15
                transaction.set_rollback(regretted)
        except (OperationalError, InterfaceError) as error:
            # SQLite is busy, or the database has gone: what is committed, its rows tell.
            print("busy", error, flush=True)
            connection.close()
        else:
            print("rolled back" if regretted else "ordered", flush=True)
        time.sleep(draw.random() * 0.03)  # customers do not come all at once


main()
