"""The settings of the site in the storm. All addresses come from the environment."""

import json
import os

from tests.mariadb import use_driver
from tests.settings import *  # noqa: F403 - the same site with changes

DATABASES = {"default": json.loads(os.environ["STORM_DATABASE"])}
if "mysql" in DATABASES["default"]["ENGINE"]:
    use_driver()
INSTALLED_APPS = [*INSTALLED_APPS, "tests.storm.apps.StormConfig"]  # noqa: F405 - see above
LOGGING_CONFIG = None
ROOT_URLCONF = "tests.storm.urls"
TASKS = {
    "stored": {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "QUEUES": [],
        "OPTIONS": {
            "CLOUD_TASKS_PROJECT": "storm",
            "CLOUD_TASKS_LOCATION": "sea",
            "TASK_HANDLER_HOST": os.environ["STORM_HANDLER"],
            "EMULATOR_HOST": os.environ["STORM_EMULATOR"],
            "ENQUEUE_TIMEOUT": 1.5,
            "RESULTS": "database",
            "LEASE": 2,
            "LOST_TASKS": os.environ["STORM_LOST_TASKS"],
        },
    }
}
