"""The site of these tests, with each store and each view."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.deliveries import PATHS
from tests.integration.recording import Site, recording
from tests.recorded_tasks import DURING


@pytest.fixture(autouse=True)
def _tasks_do_as_declared() -> Iterator[None]:
    DURING.clear()
    yield
    DURING.clear()


@pytest.fixture(params=["memory", "database"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with recording(database="default" if request.param == "database" else None) as made:
        yield made


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def view(request: pytest.FixtureRequest, site: Site) -> Site:
    site.path = request.param
    return site


@pytest.fixture
def database_site() -> Iterator[Site]:
    with recording(database="default") as made:
        yield made


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def database_view(request: pytest.FixtureRequest, database_site: Site) -> Site:
    database_site.path = request.param
    return database_site
