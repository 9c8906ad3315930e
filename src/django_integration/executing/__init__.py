"""Deliveries: authentication, loading of the task, the attempt, and the response."""
