"""Tests of the page of failures in a real browser. The site sends its tasks to the emulator."""

from __future__ import annotations

import os

import pytest
from django_tasks_cloud_tasks import StoredTask
from django_tasks_cloud_tasks.core.records import State
from django_tasks_cloud_tasks.django_integration.tasks import Discard
from django_tasks_cloud_tasks.testing import EmulatorInHand
from pytest_django.live_server_helper import LiveServer
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests import recorded_tasks
from tests.integration.test_admin_by_clicking import Admin
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_person_replays_and_deletes_failures(
    browser: webdriver.Chrome, live_server: LiveServer, cloud_tasks_emulator: EmulatorInHand
) -> None:
    def fail() -> None:
        raise Discard("the <bank> does not answer")

    def groups() -> list[str]:
        cells = browser.find_elements(By.CSS_SELECTOR, "#failures th + td")
        return [cell.text for cell in cells]

    def open_failures() -> None:
        # Django shows this link in capital letters.
        link = browser.find_element(By.CSS_SELECTOR, ".object-tools a[href$='/failures/']")
        admin.leave(link.click)

    names = ("order 1815", "order 1816")
    for name in names:
        DURING[name] = fail
        recorded_tasks.does.enqueue(name)
    cloud_tasks_emulator.settle()
    assert {row.status for row in StoredTask.objects.all()} == {State.FAILED.value}
    admin = Admin(browser, live_server.url)
    admin.log_in()
    open_failures()
    assert groups() == ["2"]
    traceback = browser.find_element(By.CSS_SELECTOR, "#failures pre")
    assert not traceback.is_displayed()
    browser.find_element(By.CSS_SELECTOR, "#failures summary").click()
    assert "the <bank> does not answer" in traceback.text
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/failures.png")
    # One of the two tasks succeeds now. The other fails again.
    DURING["order 1815"] = lambda: "paid"
    admin.follow("Replay")
    assert "Replay 2 tasks?" in admin.text()
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/failures-replay.png")
    admin.press("Replay 2 tasks")
    assert admin.messages() == ["Replayed 2 tasks."]
    assert "There are no failures." in admin.text()
    cloud_tasks_emulator.settle()
    browser.refresh()
    assert groups() == ["1"]
    # The page of the task that failed again has a link to its original.
    browser.find_element(By.CSS_SELECTOR, "#failures summary").click()
    again = StoredTask.objects.exclude(replay_of="").get(status=State.FAILED.value)
    admin.follow(again.pk)
    admin.follow(again.replay_of)
    assert again.pk in admin.text()
    # Cancel the deletion first, and then delete the task.
    admin.follow("Tasks")
    open_failures()
    admin.follow("Delete")
    admin.follow("Cancel")
    assert groups() == ["1"]
    admin.follow("Delete")
    admin.press("Delete 1 task")
    assert admin.messages() == ["Deleted 1 task."]
    assert "There are no failures." in admin.text()
    assert not StoredTask.objects.filter(pk=again.pk).exists()
    assert StoredTask.objects.filter(pk=again.replay_of).exists()
