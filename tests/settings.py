"""A Django site for the tests: the package, its endpoint, and an in-memory database."""

SECRET_KEY = "tests-only"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
ROOT_URLCONF = "tests.urls"
INSTALLED_APPS = ["django_tasks_cloud_tasks", "tests"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
TASKS = {
    "default": {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "QUEUES": [],
        "OPTIONS": {
            "CLOUD_TASKS_PROJECT": "test-project",
            "CLOUD_TASKS_LOCATION": "europe-west1",
            "TASK_HANDLER_HOST": "http://testserver",
        },
    },
    # Another door of the same site, with a demand of its own.
    "closed": {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "OPTIONS": {
            "CLOUD_TASKS_PROJECT": "test-project",
            "CLOUD_TASKS_LOCATION": "europe-west1",
            "TASK_HANDLER_HOST": "http://testserver",
            "AUTHENTICATION": "signature",
        },
    },
    # Tasks that leave a record.
    "stored": {
        "BACKEND": "django_tasks_cloud_tasks.CloudTasksBackend",
        "QUEUES": [],
        "OPTIONS": {
            "CLOUD_TASKS_PROJECT": "test-project",
            "CLOUD_TASKS_LOCATION": "europe-west1",
            "TASK_HANDLER_HOST": "http://testserver",
            "RESULTS": "database",
        },
    },
}
