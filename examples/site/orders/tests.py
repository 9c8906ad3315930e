"""The page, clicked in a real browser, with the emulator behind it."""

from __future__ import annotations

import shutil
import tempfile

from django.conf import settings
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.test import override_settings
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator
from django_tasks_cloud_tasks.emulator.server import Emulator
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from orders.views import KINDS

NO_PRINTER = "the printer does not answer (order 1815)"
ASKED_AGAIN = (
    "django_tasks_cloud_tasks.django_integration.tasks.Retry: "
    "The task asked for another attempt after 1:00:00."
)
PATIENCE = 30  # seconds for the slowest machine


class ClickingTest(StaticLiveServerTestCase):
    """Chromium, the site, the emulator."""

    def setUp(self) -> None:
        """Start the emulator, point the site at it, open the page."""
        self.emulator = BackgroundEmulator(lambda: Emulator(create_queues=True))
        emulator = self.enterContext(self.emulator)
        options = settings.TASKS["default"]["OPTIONS"] | {
            "EMULATOR_HOST": emulator.address,
            "TASK_HANDLER_HOST": self.live_server_url,
        }
        tasks = {"default": settings.TASKS["default"] | {"OPTIONS": options}}
        self.enterContext(override_settings(TASKS=tasks))
        self.browser = self._browser()
        self.browser.get(self.live_server_url)

    def _browser(self) -> webdriver.Chrome:
        chrome = webdriver.ChromeOptions()
        chrome.binary_location = shutil.which("chromium") or ""
        profile = self.enterContext(tempfile.TemporaryDirectory())
        for argument in (
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", "--disable-quic", f"--user-data-dir={profile}"),
        ):
            chrome.add_argument(argument)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=chrome, service=service)
        self.addCleanup(browser.quit)
        return browser

    def rows(self) -> list[list[str]]:
        """The table as it stands."""
        script = (
            "return [...document.querySelectorAll('#runs tr')]"
            ".map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return self.browser.execute_script(script)

    def console(self) -> list[str]:
        """What the browser complained about."""
        return [
            entry["message"]
            for entry in self.browser.get_log("browser")
            if entry["level"] == "SEVERE"
        ]

    def wait_for(self, row: list[str]) -> None:
        """Until the table has this row."""
        wait = WebDriverWait(self.browser, PATIENCE, poll_frequency=0.05)
        try:
            wait.until(lambda _: row in self.rows())
        except TimeoutException:
            self.fail(f"{row} is not in {self.rows()}; the console says {self.console()}")

    def test_every_kind_of_task_is_seen_to_finish(self) -> None:
        """Click each button; the table tells of each task's end, without a reload."""
        for kind in KINDS:
            self.browser.find_element(By.ID, kind).click()
        self.wait_for(["add_up", "[[1200,350,499]]", "SUCCESSFUL", "1", "2049"])
        self.wait_for(["greet", '["Ada"]', "SUCCESSFUL", "1", "Hello, Ada"])
        self.wait_for(
            ["alert", '["stock is low"]', "SUCCESSFUL", "1", "sent at once: stock is low"]
        )
        self.wait_for(["charge", "[1815]", "SUCCESSFUL", "3", "order 1815 charged at attempt 3"])
        self.wait_for(["greet", '["later Ada"]', "SUCCESSFUL", "1", "Hello, later Ada"])
        self.wait_for(["print_label", "[1815]", "READY", "1", f"ConnectionError: {NO_PRINTER}"])
        self.wait_for(["confirm", "[1815]", "READY", "1", ASKED_AGAIN])
        self.emulator.call(self.emulator.emulator.advance(3600))
        self.wait_for(["print_label", "[1815]", "FAILED", "3", f"ConnectionError: {NO_PRINTER}"])
        self.wait_for(["confirm", "[1815]", "SUCCESSFUL", "2", "order 1815 confirmed at attempt 2"])
        pay = next(row for row in self.rows() if row[0] == "pay")
        self.wait_for([*pay[:2], "SUCCESSFUL", "1", f"order {pay[1][1:-1]} over 2049 paid 1 time"])
        describe = next(row for row in self.rows() if row[0] == "describe")
        self.assertRegex(describe[4], r"^task [0-9a-f]{8}, attempt 1, on ")
        self.assertEqual(len(self.rows()), len(KINDS))
        self.assertEqual(self.console(), [])
