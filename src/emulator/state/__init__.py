"""Queues, tasks, jobs and attempts, and the state machines that change them."""
