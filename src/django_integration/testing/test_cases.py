"""Mixins and a test runner for unittest and `manage.py test`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.test.runner import DiscoverRunner

from .contexts import CapturedTasks, EmulatorInHand, capturing, emulating

if TYPE_CHECKING:
    from django.test import LiveServerTestCase as _LiveServerTestCase
    from django.test import SimpleTestCase as _TestCase
else:
    # The other base class of a test case provides the methods of these classes.
    _TestCase = _LiveServerTestCase = object


class CloudTasksMixin(_TestCase):
    """Captures the tasks that each test enqueues. Write this mixin before the test case class.

    With RESULTS, a recorded task is sent after the commit. So use a TransactionTestCase, or enqueue
    in `captureOnCommitCallbacks(execute=True)`.

    Attributes:
        cloud_tasks: the captured tasks. `.pending` lists them, `.run_all()` runs them.
    """

    cloud_tasks: CapturedTasks

    def setUp(self) -> None:
        """Start to capture."""
        super().setUp()
        self.cloud_tasks = self.enterContext(capturing())


class CloudTasksEmulatorMixin(_LiveServerTestCase):
    """Starts an emulator for each test. It delivers to the test's live server.

    Write this mixin before LiveServerTestCase.

    Attributes:
        cloud_tasks_emulator: the emulator. The test moves its clock.
    """

    cloud_tasks_emulator: EmulatorInHand

    def setUp(self) -> None:
        """Start the emulator.

        Raises:
            TypeError: the test case has no live server.
        """
        super().setUp()
        if not hasattr(self, "live_server_url"):
            raise TypeError(
                f"{type(self).__name__} has no live server. Write: class {type(self).__name__}"
                "(CloudTasksEmulatorMixin, LiveServerTestCase)"
            )
        self.cloud_tasks_emulator = self.enterContext(emulating(self.live_server_url))


class CloudTasksTestRunner(DiscoverRunner):
    """A test runner that discards the tasks that tests without a mixin enqueue.

    So these tests do not call Cloud Tasks. Set it as `TEST_RUNNER` in the settings. With
    `--parallel`, it works only if the worker processes are forked.
    """

    def run_checks(self, databases: Any) -> None:  # noqa: ANN401 - Django's signature
        """Run the system checks, with defaults for the values that a site detects in production."""
        with capturing():
            super().run_checks(databases)

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Django's signature
        """Run the tests."""
        with capturing():
            return super().run_suite(suite, **kwargs)
