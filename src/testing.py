"""For tests of sites with unittest and `manage.py test`; pytest finds its fixtures by itself."""

from .django_integration.testing.contexts import CapturedTask as CapturedTask
from .django_integration.testing.contexts import CapturedTasks as CapturedTasks
from .django_integration.testing.contexts import Delivered as Delivered
from .django_integration.testing.contexts import EmulatorInHand as EmulatorInHand
from .django_integration.testing.contexts import TaskFailedError as TaskFailedError
from .django_integration.testing.test_cases import (
    CloudTasksEmulatorMixin as CloudTasksEmulatorMixin,
)
from .django_integration.testing.test_cases import CloudTasksMixin as CloudTasksMixin
from .django_integration.testing.test_cases import CloudTasksTestRunner as CloudTasksTestRunner
