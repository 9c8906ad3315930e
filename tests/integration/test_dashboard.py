"""The dashboard of the emulator in a real browser."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.clock import ManualClock
from django_tasks_cloud_tasks.emulator.server import Emulator
from django_tasks_cloud_tasks.emulator.state.limits import SECOND
from google.cloud import tasks_v2
from google.protobuf.timestamp_pb2 import Timestamp
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.grpc_calls import client_over, scheduler_over
from tests.integration.http_servers import handler
from tests.integration.refusals import LOCATION, QUEUE, START


class Page:
    """The page of the dashboard, with the actions of a user."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def rows(self, table: str) -> list[list[str]]:
        script = (
            f"return [...document.querySelectorAll('#{table} tr')]"
            ".map(row => [...row.cells].map(cell => cell.textContent.trim()))"
        )
        rows: list[list[str]] = self.browser.execute_script(script)
        return rows

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 30, poll_frequency=0.05).until(lambda _: condition())

    def click(self, label: str) -> None:
        """Press the button with this name. The page may replace its buttons at any time."""
        script = (
            "const found = document.querySelector(`[aria-label='${arguments[0]}']`);"
            "if (found) found.click(); return !!found"
        )
        self.wait(lambda: self.browser.execute_script(script, label))


@pytest.fixture
def emulator() -> Iterator[BackgroundEmulator]:
    with BackgroundEmulator(lambda: Emulator(clock=ManualClock(START), queues=[QUEUE])) as running:
        yield running


@pytest.fixture
def page(emulator: BackgroundEmulator, browser: webdriver.Chrome) -> Page:
    browser.get(f"http://{emulator.address}/")
    return Page(browser)


@pytest.fixture
def api(emulator: BackgroundEmulator) -> Iterator[Any]:
    with grpc.insecure_channel(emulator.address) as channel:
        yield client_over(channel)


def test_a_person_controls_tasks_queues_and_the_clock_in_the_dashboard(
    page: Page, api: Any
) -> None:
    with handler() as (url, _):
        page.wait(lambda: page.rows("queues"))
        assert page.rows("queues")[0][:4] == ["q", "RUNNING", "0", "0"]

        # The page shows changes by other clients without a reload.
        later = Timestamp(seconds=START // SECOND + 3600)
        for task_id in ("one", "two", "three"):
            http = {"url": url, "headers": {"X-Shop": "mine"}, "body": b"the body"}
            task = {"name": f"{QUEUE}/tasks/{task_id}", "http_request": http}
            api.create_task(parent=QUEUE, task=task | {"schedule_time": later})
        page.wait(lambda: [row[0] for row in page.rows("tasks")] == ["one", "three", "two"])
        assert page.rows("tasks")[0][1] == "in 60 min"
        assert page.rows("queues")[0][2] == "3"

        # Open and close the details of a task.
        page.browser.find_element(By.XPATH, "//button[text()='one']").send_keys(Keys.ENTER)
        detail = page.browser.find_element(By.ID, "detail-text")
        page.wait(lambda: "the body" in detail.text)
        assert f"POST {url}" in detail.text
        assert "X-Shop: mine" in detail.text
        page.browser.find_element(By.ID, "close").click()
        page.wait(lambda: not page.browser.find_element(By.ID, "detail").is_displayed())

        # Run, delete, pause, resume.
        page.click("Run one")
        page.wait(lambda: page.rows("attempts") == [["one", "1", "200"]])
        page.click("Delete three")
        page.wait(lambda: [row[0] for row in page.rows("tasks")] == ["two"])
        page.click("Pause q")
        page.wait(lambda: page.rows("queues")[0][1] == "PAUSED")
        assert api.get_queue(name=QUEUE).state == tasks_v2.Queue.State.PAUSED
        page.click("Resume q")
        page.wait(lambda: page.rows("queues")[0][1] == "RUNNING")

        # Move the clock by keyboard: a task that was due in an hour is delivered.
        field = page.browser.find_element(By.ID, "seconds")
        field.clear()
        field.send_keys("3600", Keys.ENTER)
        page.wait(lambda: page.rows("attempts")[0] == ["two", "1", "200"])
        page.wait(lambda: page.rows("tasks") == [])

        # Choose another queue and purge it.
        other = f"{LOCATION}/queues/other"
        api.create_queue(parent=LOCATION, queue={"name": other})
        api.pause_queue(name=other)
        api.create_task(parent=other, task={"http_request": {"url": url}})
        page.click("Show tasks of other")
        page.wait(lambda: len(page.rows("tasks")) == 1)
        page.click("Purge other")
        page.wait(lambda: page.rows("tasks") == [])


def test_a_person_controls_jobs_of_cloud_scheduler_in_the_dashboard(
    page: Page, emulator: BackgroundEmulator
) -> None:
    with handler() as (url, _), grpc.insecure_channel(emulator.address) as channel:
        page.wait(lambda: page.rows("queues"))
        section = page.browser.find_element(By.ID, "scheduler")
        assert not section.is_displayed(), "there are no jobs"
        scheduler_over(channel).create_job(
            parent=LOCATION,
            job={
                "name": f"{LOCATION}/jobs/relay",
                "schedule": "30 * * * *",
                "time_zone": "Europe/Berlin",
                "http_target": {"uri": url},
            },
        )
        page.wait(lambda: page.rows("jobs"))
        assert section.is_displayed()
        assert page.rows("jobs")[0][:7] == (
            ["relay", "30 * * * *", "Europe/Berlin", "ENABLED", "in 30 min", "", ""]
        )
        page.click("Pause relay")
        page.wait(lambda: page.rows("jobs")[0][3:5] == ["PAUSED", ""])
        page.click("Run relay")
        page.wait(lambda: page.rows("jobs")[0][5:7] == ["2026-01-01 00:00:00", "200"])
        assert page.rows("attempts") == [["relay", "1", "200"]]
        page.click("Resume relay")
        page.wait(lambda: page.rows("jobs")[0][3] == "ENABLED")
        field = page.browser.find_element(By.ID, "seconds")
        field.clear()
        field.send_keys("1800", Keys.ENTER)
        page.wait(lambda: page.rows("jobs")[0][5:7] == ["2026-01-01 00:30:00", "200"])
        page.click("Delete relay")
        page.wait(lambda: not section.is_displayed())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dashboard_is_readable_on_a_phone_in_light_and_dark_mode(
    page: Page, api: Any, emulator: BackgroundEmulator, scheme: str
) -> None:
    emulate = page.browser.execute_cdp_cmd
    emulate("Emulation.setDeviceMetricsOverride", PHONE)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    emulate("Emulation.setEmulatedMedia", {"features": features})
    task = {"name": f"{QUEUE}/tasks/{'long-' * 40}", "http_request": {"url": "http://127.0.0.1:1/"}}
    api.create_task(parent=QUEUE, task=task)
    job = {
        "name": f"{LOCATION}/jobs/{'long-' * 40}",
        "schedule": "30 1,13 * * MON-FRI",
        "time_zone": "America/Argentina/ComodRivadavia",
        "http_target": {"uri": "http://127.0.0.1:1/"},
    }
    with grpc.insecure_channel(emulator.address) as channel:
        scheduler_over(channel).create_job(parent=LOCATION, job=job)
    page.wait(lambda: page.rows("tasks") and page.rows("jobs"))
    # Nothing is wider than the screen: a wide table scrolls on its own.
    overflow = "return document.documentElement.scrollWidth - window.innerWidth"
    assert page.browser.execute_script(overflow) <= 0
    background = "return getComputedStyle(document.documentElement).colorScheme"
    assert page.browser.execute_script(background) == "light dark"
    if folder := os.environ.get("SCREENSHOTS"):
        page.browser.save_screenshot(f"{folder}/dashboard-{scheme}.png")


PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
