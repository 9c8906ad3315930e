"""Queues, tasks and attempts, and the state machine that changes them."""
