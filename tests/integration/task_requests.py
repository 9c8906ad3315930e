"""The request that creates a task, for tests of the port to Cloud Tasks."""

from django_tasks_cloud_tasks.core.names import QueueName
from django_tasks_cloud_tasks.core.requests import TaskRequest

QUEUE_NAME = QueueName("p", "l", "q")


def task_request(task_id: str = "an-id", url: str = "http://127.0.0.1:1/") -> TaskRequest:
    """Return a request for a task with this id and URL."""
    return TaskRequest(queue=QUEUE_NAME, task_id=task_id, url=url, headers={}, body=b"{}")
