"""How a test learns that `tests.slow_import` is being imported, and lets the import continue."""

import threading

importing = threading.Event()
go_on = threading.Event()
