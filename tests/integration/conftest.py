"""The emulator and its clients, for the tests of its API."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import (
    CloudTasksGrpcTransport,
    CloudTasksRestTransport,
)

from tests.integration.refusals import LOCATION, QUEUE, START


@pytest.fixture
def emulator() -> Iterator[BackgroundEmulator]:
    with BackgroundEmulator(lambda: Emulator(clock=ManualClock(START))) as running:
        yield running


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, emulator: BackgroundEmulator) -> Iterator[Any]:
    """The official client, over each wire."""
    if request.param == "rest":
        anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
        transport = CloudTasksRestTransport(
            host=emulator.address, url_scheme="http", credentials=anonymous
        )
        with tasks_v2.CloudTasksClient(transport=transport) as rest:
            yield rest
        return
    with grpc.insecure_channel(emulator.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def grpc_client(emulator: BackgroundEmulator) -> Iterator[Any]:
    """Over gRPC alone, for what cannot be put into a URL, or into JSON."""
    with grpc.insecure_channel(emulator.address) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def queue(client: Any) -> str:
    client.create_queue(parent=LOCATION, queue={"name": QUEUE})
    client.pause_queue(name=QUEUE)
    return QUEUE
