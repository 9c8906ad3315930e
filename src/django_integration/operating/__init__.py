"""The operation of enqueued tasks: the relay, control by people, and the check of deliveries."""
