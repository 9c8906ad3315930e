"""The findings of the doctor, from what Cloud Tasks shows."""

import pytest
from django_tasks_cloud_tasks.core.doctor import (
    Level,
    ProbeTaskStatus,
    diagnose,
    missing,
)
from django_tasks_cloud_tasks.core.options import Authentication

URL = "https://shop.example.com/cloudtasks/execute/"


def finding(status: str, mode: Authentication = Authentication.OIDC) -> object:
    seen = ProbeTaskStatus(dispatches=1, responses=1, status=status)
    return diagnose(seen, url=URL, mode=mode, account="shop@p")


@pytest.mark.parametrize("code", [*range(300, 600)])
def test_each_status_that_is_no_success_has_a_meaning_and_a_remedy(code: int) -> None:
    seen = ProbeTaskStatus(dispatches=1, responses=1, status=f"X(2): HTTP status code {code}")
    found = diagnose(seen, url=URL, mode=Authentication.OIDC, account=None)
    assert found is not None
    assert found.level is Level.ERROR
    assert found.message.startswith(f"{URL} answered {code}. ")
    assert found.remedy.endswith(".")
    assert "{" not in found.remedy


@pytest.mark.parametrize("text", ["", "DEADLINE_EXCEEDED(4)", "UNAVAILABLE(14): no route"])
def test_a_probe_without_a_status_may_still_arrive(text: str) -> None:
    assert finding(text) is None


def test_the_remedy_depends_on_the_authentication() -> None:
    refused = "UNAUTHENTICATED(16): HTTP status code 401"
    assert "OIDC_AUDIENCE" in str(finding(refused))
    assert "SECRET_KEY" in str(finding(refused, Authentication.SIGNATURE))


def test_a_probe_that_was_not_dispatched_is_told_apart_from_one_without_an_answer() -> None:
    waiting = missing(ProbeTaskStatus(), url=URL, timeout=60)
    silent = missing(ProbeTaskStatus(dispatches=1), url=URL, timeout=60)
    assert "did not dispatch the task within 60 s" in waiting.message
    assert f"called {URL}, and no answer came within 60 s" in silent.message
