"""An emulator of Cloud Tasks on one machine, for development and tests.

Like the core, the state machine (`state.state_machine`) performs no input or output. Its callers
report events with their times. It returns the attempts to dispatch and the time of the next event.
The other modules connect it to the network, the clock and the disk:

- `ways_in` receives requests, `messages` converts them, and `api` handles them.
- `scheduler` dispatches attempts when they are due, and `ways_out` makes them.
- `storage` keeps the state in a file, and `server` connects all modules.
"""
