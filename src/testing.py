"""For tests of sites with unittest and `manage.py test`; pytest finds its fixtures by itself."""

from .django_integration.test_cases import CloudTasksEmulatorMixin as CloudTasksEmulatorMixin
from .django_integration.test_cases import CloudTasksMixin as CloudTasksMixin
from .django_integration.test_cases import CloudTasksTestRunner as CloudTasksTestRunner
from .django_integration.testing import CapturedTask as CapturedTask
from .django_integration.testing import CapturedTasks as CapturedTasks
from .django_integration.testing import Delivered as Delivered
from .django_integration.testing import EmulatorInHand as EmulatorInHand
from .django_integration.testing import TaskFailedError as TaskFailedError
