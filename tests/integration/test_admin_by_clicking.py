"""The admin in a real browser. The site sends its tasks to the emulator."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from django_tasks_cloud_tasks.testing import EmulatorInHand
from pytest_django.live_server_helper import LiveServer
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from tests import recorded_tasks
from tests.recorded_tasks import DURING

pytestmark = pytest.mark.django_db(transaction=True)


class Admin:
    """The pages of the admin, with the actions of a user."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self.url = url

    def log_in(self) -> None:
        User.objects.create_superuser("ada", password="lovelace")
        self.browser.get(f"{self.url}/admin/")
        self.browser.find_element(By.NAME, "username").send_keys("ada")
        self.browser.find_element(By.NAME, "password").send_keys("lovelace")
        self.press("Log in")
        self.follow("Tasks")

    def rows(self) -> list[list[str]]:
        """Return the rows of the list: id, task, queue, status and attempts."""
        script = (
            "return [...document.querySelectorAll('#result_list tbody tr')]"
            ".map(row => [...row.querySelectorAll('th, td')].slice(1, 6).map(c => c.textContent))"
        )
        rows: list[list[str]] = self.browser.execute_script(script)
        return rows

    def follow(self, text: str) -> None:
        self.leave(lambda: self.browser.find_element(By.LINK_TEXT, text).click())

    def press(self, label: str) -> None:
        path = f"//button[normalize-space()='{label}'] | //input[@value='{label}']"
        self.leave(lambda: self.browser.find_element(By.XPATH, path).click())

    def leave(self, act: Any) -> None:
        """Do an action that opens another page, and wait for the page."""
        before = self.browser.find_element(By.TAG_NAME, "html")
        act()
        wait = WebDriverWait(self.browser, 30, poll_frequency=0.05)
        wait.until(lambda browser: browser.find_element(By.TAG_NAME, "html") != before)
        wait.until(
            lambda browser: browser.execute_script("return document.readyState") == "complete"
        )

    def messages(self) -> list[str]:
        return [m.text for m in self.browser.find_elements(By.CSS_SELECTOR, ".messagelist li")]

    def text(self) -> str:
        return self.browser.find_element(By.ID, "content").text


def test_a_person_filters_runs_and_cancels_tasks_in_the_admin(
    browser: webdriver.Chrome, live_server: LiveServer, cloud_tasks_emulator: EmulatorInHand
) -> None:
    def fail() -> None:
        raise ValueError("the <bank> does not answer")

    DURING["order 1815"] = fail
    failing = recorded_tasks.does.enqueue("order 1815").id
    cloud_tasks_emulator.settle()
    tomorrow = timezone.now() + timedelta(days=1)
    waiting = recorded_tasks.does.using(run_after=tomorrow).enqueue("order 1816").id
    admin = Admin(browser, live_server.url)
    admin.log_in()
    path = "tests.recorded_tasks.does"
    # The clock stands still, so that they were enqueued at the same time.
    assert sorted(admin.rows(), key=lambda row: row[4]) == [
        [waiting, path, "default", "Ready", "0"],
        [failing, path, "default", "Ready", "1"],
    ]
    # Filter, and search.
    admin.follow("Successful")
    assert admin.rows() == []
    admin.follow("Tasks")
    browser.find_element(By.ID, "searchbar").send_keys("1816")
    admin.press("Search")
    assert [row[0] for row in admin.rows()] == [waiting]
    # Run the waiting one now, from its page.
    admin.follow(waiting)
    assert "order 1816" in admin.text()
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/admin-waiting.png")
    admin.press("Run now")
    assert admin.messages() == ["Sent to run now."]
    cloud_tasks_emulator.settle()
    browser.refresh()
    assert "Successful" in admin.text()
    assert not browser.find_elements(By.XPATH, "//button[normalize-space()='Cancel']")
    # Run it again: a new task, with a page of its own.
    admin.press("Run again")
    cloud_tasks_emulator.settle()
    admin.follow("Tasks")
    assert sorted(row[3] for row in admin.rows()) == ["Ready", "Successful", "Successful"]
    # Cancel the failing one from the list.
    box = f"input.action-select[value='{failing}']"
    browser.find_element(By.CSS_SELECTOR, box).click()
    Select(browser.find_element(By.NAME, "action")).select_by_visible_text("Cancel")
    go = ".actions button[name='index']"  # versions of Django differ in its label
    admin.leave(lambda: browser.find_element(By.CSS_SELECTOR, go).click())
    assert admin.messages() == ["Cancelled."]
    assert [failing, path, "default", "Cancelled", "1"] in admin.rows()
    assert [t for t in cloud_tasks_emulator.waiting() if t.name.endswith(failing)] == []
    # The page of the task shows its errors; markup in them is shown as text.
    admin.follow(failing)
    text = admin.text()
    assert "ValueError: the <bank> does not answer" in text
    assert "TaskCancelledError" in text
    assert re.search(r"Lease ends:?\s+-", text)
    if folder := os.environ.get("SCREENSHOTS"):
        browser.find_element(By.TAG_NAME, "summary").click()
        browser.save_screenshot(f"{folder}/admin-failed.png")
