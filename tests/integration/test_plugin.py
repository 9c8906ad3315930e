"""The pytest fixtures of the package, used as in the tests of a site."""

from typing import Any

import pytest
from django.tasks import TaskResultStatus, task_backends
from django_tasks_cloud_tasks import Snooze
from django_tasks_cloud_tasks.testing import (
    CapturedTasks,
    EmulatorInHand,
    TaskFailedError,
)

from tests import policy_tasks, recorded_tasks, tasks
from tests.models import Mark


def test_tasks_are_captured_and_delivered_through_the_view(
    cloud_tasks: CapturedTasks, ran: list[object]
) -> None:
    tasks.add.enqueue(1, b=2)
    tasks.add_async.enqueue(3, 4)
    assert [repr(task) for task in cloud_tasks.pending] == [
        "<tests.tasks.add(1, b=2) in default>",
        "<tests.tasks.add_async(3, 4) in default>",
    ]
    assert ran == []
    delivered = cloud_tasks.run_all()
    assert ran == [("add", 1, 2), ("add_async", 3, 4)]
    assert [(d.status, d.document["status"]) for d in delivered] == [(200, "success")] * 2
    assert cloud_tasks.pending == []


def test_a_failing_task_fails_the_test(cloud_tasks: CapturedTasks) -> None:
    tasks.fails.enqueue("no stock")
    with pytest.raises(TaskFailedError, match="ValueError: no stock"):
        cloud_tasks.run_all()


def test_a_task_that_snoozes_fails_no_test_and_stays_pending(cloud_tasks: CapturedTasks) -> None:
    policy_tasks.SCRIPT[:] = [Snooze(for_=60), "done"]
    policy_tasks.plain.enqueue()
    assert [d.document["status"] for d in cloud_tasks.run_all()] == ["snoozed"]
    assert len(cloud_tasks.pending) == 1
    assert [d.document["status"] for d in cloud_tasks.run_all()] == ["success"]
    assert cloud_tasks.pending == []


def test_run_all_without_check_returns_the_failures(
    cloud_tasks: CapturedTasks, ran: list[object]
) -> None:
    tasks.fails_twice.enqueue()
    statuses = [cloud_tasks.run_all(check=False)[0].status for _ in range(3)]
    assert statuses == [500, 500, 200]
    assert ran == [1, 2, 3]
    assert cloud_tasks.run_all(check=False) == []


def test_tasks_that_tasks_enqueue_are_delivered(
    cloud_tasks: CapturedTasks, ran: list[object]
) -> None:
    tasks.enqueues_add.enqueue(2)
    cloud_tasks.run_all()
    assert ran == [("enqueues_add", 2), ("enqueues_add", 1), ("add", 0, 0)]


def test_cloud_tasks_delivers_tasks_that_carry_tokens(
    cloud_tasks: CapturedTasks, settings: Any, ran: list[object]
) -> None:
    account = {"OIDC_SERVICE_ACCOUNT_EMAIL": "tasks@p", "AUTHENTICATION": "oidc"}
    options = settings.TASKS["default"]["OPTIONS"] | account
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": options}}
    tasks.add.enqueue(1, 2)
    (task,) = cloud_tasks.pending
    assert task.request.oidc is not None
    cloud_tasks.run_all()
    assert ran == [("add", 1, 2)]


def test_cloud_tasks_delivers_tasks_of_a_backend_without_options(
    cloud_tasks: CapturedTasks, settings: Any
) -> None:
    settings.TASKS = {"default": {"BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend"}}
    tasks.add.enqueue(1, 2)
    cloud_tasks.run_all()


@pytest.mark.django_db(transaction=True)
def test_the_emulator_fixture_duplicates_refuses_and_resets_tasks(
    cloud_tasks_emulator: EmulatorInHand, ran: list[object]
) -> None:
    cloud_tasks_emulator.chaos("duplicate=1,drop=0,refuse=0,delay=0")
    tasks.add.enqueue(1, 2)
    cloud_tasks_emulator.settle()
    assert ran == [("add", 1, 2)] * 2
    cloud_tasks_emulator.chaos("duplicate=0,drop=0,refuse=1,delay=0")
    tasks.add.enqueue(3, 4)
    cloud_tasks_emulator.settle()
    assert len(cloud_tasks_emulator.waiting()) == 1
    cloud_tasks_emulator.reset()
    assert cloud_tasks_emulator.waiting() == []
    assert len(ran) == 2


def test_backends_are_restored_after_the_fixture(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    pytester.makepyfile(
        conftest="""
            from django.conf import settings
            def pytest_configure():
                settings.configure(SECRET_KEY="x", TASKS={"default": {
                    "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
                    "OPTIONS": {"AUTHENTICATION": "signature"}}})
        """,
        shop="""
            from django.tasks import task
            @task
            def send(n):
                pass
        """,
        test_it="""
            import pytest
            from django_tasks_cloud_tasks import ConfigurationError
            def test_a_task_is_captured_with_the_fixture(cloud_tasks):
                from shop import send
                send.enqueue(1)
                assert len(cloud_tasks.pending) == 1
            def test_a_task_is_not_captured_without_the_fixture(monkeypatch):
                monkeypatch.setenv("NO_GCE_CHECK", "true")
                from shop import send
                with pytest.raises(ConfigurationError):
                    send.enqueue(1)
        """,
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)


def test_a_backend_is_created_without_any_lookup() -> None:
    assert task_backends["default"].alias == "default"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", range(3))
def test_thirty_tasks_share_the_database_in_memory_with_the_test(
    cloud_tasks_emulator: EmulatorInHand, round_: int
) -> None:
    """The live server's threads and the test share one connection."""
    results = []
    for number in range(30):
        results.append(recorded_tasks.marks_and_tells.enqueue(f"{number}"))
        Mark.objects.create(name="the test's own")
    assert cloud_tasks_emulator.finished == [], "the test uses the connection"
    cloud_tasks_emulator.settle()
    assert [attempt.status for attempt in cloud_tasks_emulator.finished] == [200] * 30
    for result in results:
        result.refresh()
    assert {result.status for result in results} == {TaskResultStatus.SUCCESSFUL}
    assert Mark.objects.exclude(name="the test's own").count() == 30


def test_the_error_for_a_missing_static_url_names_the_setting(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    pytester.makepyfile(
        conftest="""
            from django.conf import settings
            def pytest_configure():
                settings.configure(
                    SECRET_KEY="x",
                    DATABASES={"default": {
                        "ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
                    INSTALLED_APPS=["django_tasks_cloud_tasks"],
                    TASKS={"default": {
                        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend"}})
        """,
        test_it="""
            import pytest
            @pytest.mark.django_db(transaction=True)
            def test_the_fixture_is_requested(cloud_tasks_emulator):
                pass
        """,
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    said = result.stdout.str()
    assert "Set STATIC_URL in the settings of the tests, for example to '/static/'" in said
