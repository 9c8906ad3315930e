"""The outgoing side: HTTP requests to the app, their tokens, and injected faults."""
