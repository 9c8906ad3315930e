"""The records of tasks in the site's database, and the `TaskResult` of a record."""
