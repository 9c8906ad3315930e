"""Changed copies of task records, for tests."""

from django_tasks_cloud_tasks.core.records import TaskRecord, with_leaves


def changed(record: TaskRecord, **leaves: object) -> TaskRecord:
    """Return the record with other values of these fields; `claim__token` means `claim.token`."""
    return with_leaves(record, {name.replace("__", "."): leaves[name] for name in leaves})
