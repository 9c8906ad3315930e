"""The backend that `task.enqueue()` calls. It builds, signs and sends the request for a task."""
