"""Helpers for the tests of a site.

There are mixins for unittest and `manage.py test`, and context managers for other test runners.
pytest loads its fixtures automatically.
"""

from .django_integration.testing.contexts import CapturedTask as CapturedTask
from .django_integration.testing.contexts import CapturedTasks as CapturedTasks
from .django_integration.testing.contexts import Delivered as Delivered
from .django_integration.testing.contexts import EmulatorInHand as EmulatorInHand
from .django_integration.testing.contexts import TaskFailedError as TaskFailedError
from .django_integration.testing.contexts import capturing as capturing
from .django_integration.testing.contexts import emulating as emulating
from .django_integration.testing.test_cases import (
    CloudTasksEmulatorMixin as CloudTasksEmulatorMixin,
)
from .django_integration.testing.test_cases import CloudTasksMixin as CloudTasksMixin
from .django_integration.testing.test_cases import CloudTasksTestRunner as CloudTasksTestRunner
