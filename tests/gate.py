"""Events for the import of `tests.slow_import`. It sets `importing`, and waits for `go_on`."""

import threading

importing = threading.Event()
go_on = threading.Event()
