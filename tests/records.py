"""Records of tasks for tests, with some of their leaves changed."""

from django_tasks_cloud_tasks.core.records import TaskRecord, with_leaves


def changed(record: TaskRecord, **leaves: object) -> TaskRecord:
    """The record with other values of these leaves; `claim__token` is that of `claim.token`."""
    return with_leaves(record, {name.replace("__", "."): leaves[name] for name in leaves})
