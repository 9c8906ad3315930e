"""Between a test and `tests.slow_import`: who is importing, and when it may go on."""

import threading

importing = threading.Event()
go_on = threading.Event()
