"""Deliveries to the views of the test site, as Cloud Tasks makes them."""

import json
from typing import Any

from django.http import HttpResponse
from django.test import Client
from django_tasks_cloud_tasks.django_integration.signing import sign

PATHS = {"sync": "/cloudtasks/execute/", "async": "/async/cloudtasks/execute/"}


def body_of(task_path: str, *args: object, **more: object) -> bytes:
    """Return the body of a delivery that calls this task with these arguments.

    Args:
        more: additional fields. They replace fields with the same name.
    """
    document = {"task_id": "an-id", "task_path": task_path, "args": args, "kwargs": {}, **more}
    return json.dumps(document).encode()


def post_signed(
    path: str, body: bytes, signature: str | None = None, headers: dict[str, str] | None = None
) -> HttpResponse:
    """POST the body with this signature; None means the valid signature."""
    signed = {"X-Django-Tasks-Signature": sign(body) if signature is None else signature}
    response: Any = Client().post(
        path, data=body, content_type="application/json", headers={**signed, **(headers or {})}
    )
    assert isinstance(response, HttpResponse)
    return response
