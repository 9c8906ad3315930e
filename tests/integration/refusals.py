"""The error of a refused API call, in the same form for gRPC and REST."""

from collections.abc import Callable
from typing import Any

import pytest
import requests
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from google.api_core.exceptions import GoogleAPICallError

LOCATION = "projects/p/locations/l"
QUEUE = f"{LOCATION}/queues/q"
START = 1_767_225_600 * SECOND


def refused(call: Callable[[], object]) -> dict[str, Any]:
    """Return status, message and details of the error, in the same form for gRPC and REST."""
    with pytest.raises(GoogleAPICallError) as raised:
        call()
    error = raised.value
    if isinstance(error.response, requests.Response):
        document: dict[str, Any] = error.response.json()["error"]
        assert document["code"] == error.response.status_code
        return document
    links = [
        {"description": link.description, "url": link.url}
        for detail in error.details
        for link in detail.links
    ]
    details = [{"@type": "type.googleapis.com/google.rpc.Help", "links": links}] if links else []
    assert error.grpc_status_code is not None
    told = {"status": error.grpc_status_code.name, "message": error.message}
    return told | ({"details": details} if details else {})


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    error = refused(call)
    return error["status"], error["message"]
