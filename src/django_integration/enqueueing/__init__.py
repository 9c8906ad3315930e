"""What `task.enqueue()` leads to: the backend, the request, its signature."""
