"""`python -m tests.storm.enqueuer SEED COUNT`: places orders in transactions.

Some of the transactions are rolled back.
"""

import random
import sys
import time

import django


def main() -> None:
    django.setup()
    from django.db import InterfaceError, OperationalError, connection, transaction

    from tests.models import Order
    from tests.storm.ingredients import chosen
    from tests.storm.tasks import QUEUES, kinds_of

    draw = random.Random(sys.argv[1])
    kinds = kinds_of(chosen())
    weights = {"atomic": 8, "outlasts_its_lease": 2, "enqueues_another": 3}
    shares = [6, 2, 2] if "few" in chosen() else [1, 0, 0]
    for number in range(int(sys.argv[2])):
        kind = draw.choices([*kinds], [weights.get(name, 3) for name in kinds])[0]
        queue = draw.choices([*QUEUES], shares)[0]
        try:
            with transaction.atomic():
                result = kinds[kind].using(queue_name=queue).enqueue(number)
                Order.objects.create(task_id=result.id, kind=kind, number=number, queue=queue)
                regretted = draw.random() < 0.15
                transaction.set_rollback(regretted)
        except (OperationalError, InterfaceError) as error:
            # SQLite is busy, or the database is down. The rows show if the order is committed.
            print("busy", error, flush=True)
            connection.close()
        else:
            print("rolled back" if regretted else "ordered", flush=True)
        time.sleep(draw.random() * 0.03)  # spreads the orders over time


main()
