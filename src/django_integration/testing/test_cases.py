"""What the fixtures of the pytest plugin are to pytest, for unittest and `manage.py test`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.test.runner import DiscoverRunner

from .contexts import CapturedTasks, EmulatorInHand, capturing, emulating

if TYPE_CHECKING:
    from django.test import LiveServerTestCase as _LiveServerTestCase
    from django.test import SimpleTestCase as _TestCase
else:
    # The test case among the bases brings what these are.
    _TestCase = _LiveServerTestCase = object


class CloudTasksMixin(_TestCase):
    """Captures the tasks that each test enqueues; stands before the test case among the bases.

    With RESULTS the test case is a TransactionTestCase, or its tests use
    `captureOnCommitCallbacks(execute=True)`: a recorded task is sent after the commit.

    Attributes:
        cloud_tasks: what was captured; `.pending` lists, `.run_all()` executes.
    """

    cloud_tasks: CapturedTasks

    def setUp(self) -> None:
        """Begin to capture."""
        super().setUp()
        self.cloud_tasks = self.enterContext(capturing())


class CloudTasksEmulatorMixin(_LiveServerTestCase):
    """Gives each test an emulator that delivers to its live server; stands before
    LiveServerTestCase among the bases.

    Attributes:
        cloud_tasks_emulator: the emulator, with its clock in the test's hand.
    """

    cloud_tasks_emulator: EmulatorInHand

    def setUp(self) -> None:
        """Start the emulator.

        Raises:
            TypeError: there is no live server to deliver to.
        """
        super().setUp()
        if not hasattr(self, "live_server_url"):
            raise TypeError(
                f"{type(self).__name__} needs a live server: write class {type(self).__name__}"
                "(CloudTasksEmulatorMixin, LiveServerTestCase)."
            )
        self.cloud_tasks_emulator = self.enterContext(emulating(self.live_server_url))


class CloudTasksTestRunner(DiscoverRunner):
    """Captures, and forgets, what tests without a mixin enqueue, so that nothing is called.

    For `TEST_RUNNER` in the settings. Worker processes of `--parallel` inherit it where they are
    forked.
    """

    def run_checks(self, databases: Any) -> None:  # noqa: ANN401 - Django's signature
        """Run the system checks, with what a site detects in production."""
        with capturing():
            super().run_checks(databases)

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Django's signature
        """Run the tests."""
        with capturing():
            return super().run_suite(suite, **kwargs)
