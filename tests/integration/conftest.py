"""The emulator and its clients, for the tests of its API."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from django.db import connections
from django_tasks_cloud_tasks.django_integration import registry
from django_tasks_cloud_tasks.django_integration.models import StoredTask
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksRestTransport
from pytest_django import DjangoDbBlocker
from selenium import webdriver

from tests import mariadb, postgres
from tests.integration import databases
from tests.integration.grpc_calls import client_over
from tests.integration.refusals import LOCATION, QUEUE, START


@pytest.fixture
def no_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the policies of the tasks that other tests have declared for the same alias."""
    monkeypatch.setattr(registry, "_DECLARED", {})


@pytest.fixture
def emulator() -> Iterator[BackgroundEmulator]:
    with BackgroundEmulator(lambda: Emulator(clock=ManualClock(START))) as running:
        yield running


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, emulator: BackgroundEmulator) -> Iterator[Any]:
    """The official client, over gRPC and over REST."""
    if request.param == "rest":
        anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
        transport = CloudTasksRestTransport(
            host=emulator.address, url_scheme="http", credentials=anonymous
        )
        with tasks_v2.CloudTasksClient(transport=transport) as rest:
            yield rest
        return
    with grpc.insecure_channel(emulator.address) as channel:
        yield client_over(channel)


@pytest.fixture
def grpc_client(emulator: BackgroundEmulator) -> Iterator[Any]:
    """The client over gRPC only, for values that neither a URL nor JSON can represent."""
    with grpc.insecure_channel(emulator.address) as channel:
        yield client_over(channel)


@pytest.fixture
def queue(client: Any) -> str:
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    client.pause_queue(name=QUEUE)
    return QUEUE


@pytest.fixture(scope="session")
def sqlite_file(
    tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker
) -> Iterator[str]:
    """The alias of a database in a file."""
    entry = databases.sqlite(tmp_path_factory.mktemp("sqlite"))
    with ExitStack() as stack:
        with django_db_blocker.unblock():
            stack.enter_context(databases.reachable("sqlite-file", entry))
        yield "sqlite-file"


@pytest.fixture(scope="session")
def postgres_cluster(django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a database in a PostgreSQL cluster that only the tests use."""
    databases.demand_postgres()
    with ExitStack() as stack:
        entry = stack.enter_context(postgres.cluster())
        with django_db_blocker.unblock():
            stack.enter_context(databases.reachable("postgres-cluster", entry))
        yield "postgres-cluster"


@pytest.fixture(scope="session")
def mariadb_server(django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a database in a MariaDB server that only the tests use."""
    databases.demand_mariadb()
    with ExitStack() as stack:
        entry = stack.enter_context(mariadb.server())
        with django_db_blocker.unblock():
            stack.enter_context(databases.reachable("mariadb-server", entry))
        yield "mariadb-server"


@pytest.fixture(params=["sqlite_file", "postgres_cluster", "mariadb_server"])
def database(request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of each database, with an empty table of tasks, for tests that use threads."""
    alias: str = request.getfixturevalue(request.param)
    with django_db_blocker.unblock():
        yield alias
        StoredTask.objects.using(alias).all().delete()
        connections[alias].close()


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """A real browser. The fixture fails if the log of the browser contains errors."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("chromium and chromedriver must be there, and are not")
        pytest.skip("no browser: install chromium and chromedriver (Debian: chromium-driver)")
    chrome = webdriver.ChromeOptions()
    chrome.binary_location = program
    with tempfile.TemporaryDirectory() as profile:
        for argument in (
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", f"--user-data-dir={profile}", "--window-size=1100,1000"),
        ):
            chrome.add_argument(argument)
        running = webdriver.Chrome(options=chrome, service=webdriver.ChromeService(driver))
        try:
            yield running
            log = running.get_log("browser")  # type: ignore[no-untyped-call]  # of Selenium
            severe = [entry["message"] for entry in log if entry["level"] == "SEVERE"]
            assert [said for said in severe if "/favicon.ico" not in said] == []
        finally:
            running.quit()
