"""The number of database queries that enqueueing, executing and reading a result need."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests import recorded_tasks, tasks
from tests.integration.deliveries import PATHS
from tests.integration.recording import Site, recording

pytestmark = pytest.mark.django_db(transaction=True)


def statements(queries: CaptureQueriesContext) -> list[str]:
    return [
        word
        for query in queries
        if (word := query["sql"].split()[0]) not in ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    ]


@pytest.mark.parametrize("path", list(PATHS.values()), ids=list(PATHS))
def test_a_backend_without_a_store_makes_no_queries(
    path: str, django_assert_num_queries: Any, cloud_tasks: Any
) -> None:
    with recording() as site, django_assert_num_queries(0):
        site.path = path
        tasks.add.enqueue(1, 2)
        assert site.deliver()[0] == 200


def test_a_backend_with_a_store_makes_few_queries(database_view: Site) -> None:
    for task, executed in (
        (recorded_tasks.does, ["SELECT", "UPDATE", "UPDATE"]),
        (recorded_tasks.does_async, ["SELECT", "UPDATE", "UPDATE"]),
        (recorded_tasks.marks, ["SELECT", "UPDATE", "INSERT", "UPDATE"]),
    ):
        with CaptureQueriesContext(connection) as queries:
            result = task.enqueue("a")
        assert statements(queries) == ["INSERT", "UPDATE"]
        with CaptureQueriesContext(connection) as queries:
            assert database_view.deliver(result.id)[0] == 200
        assert statements(queries) == executed
        with CaptureQueriesContext(connection) as queries:
            result.refresh()
        assert statements(queries) == ["SELECT"]
