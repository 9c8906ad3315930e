"""An emulator of Cloud Tasks and Cloud Scheduler on one machine, for development and tests.

Like the core, the state machines (`state.state_machine` for queues and tasks, `state.job_service`
for jobs) perform no input or output. Their callers report events with their times. They return the
attempts to dispatch and the time of the next event. The other modules connect them to the network,
the clock and the disk:

- `ways_in` receives requests, `messages` converts them, and `api` handles them.
- `scheduler` dispatches attempts when they are due, and `ways_out` makes them.
- `storage` keeps the state in a file, and `server` connects all modules.
"""
