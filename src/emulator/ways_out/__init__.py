"""How attempts leave the emulator: HTTP requests to the app, their tokens, and injected faults."""
