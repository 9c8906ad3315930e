"""An emulator in a thread, for tests and for programs that do not use asyncio."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

from .server import Emulator


class BackgroundEmulator:
    """A context manager that runs an emulator on an event loop in a thread.

    Args:
        make: a function that creates the emulator. It is called on the event loop.
        host: the address to listen on.
        port: the port to listen on; 0 chooses a free port.

    Attributes:
        address: HOST:PORT, set when the emulator has started.
        emulator: the emulator, set when it has started.

    Raises:
        OSError: on entering the context, the address is in use or does not exist.
    """

    address: str
    emulator: Emulator

    def __init__(
        self, make: Callable[[], Emulator] = Emulator, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._make = make
        self._host = host
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="cloud-tasks-emulator", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.call(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call(self.emulator.stop())
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the emulator's loop, wait for it, and return its result.

        Raises:
            Exception: any exception of the coroutine.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self) -> None:
        self.emulator = self._make()
        port = await self.emulator.start(self._host, self._port)
        self.address = f"{self._host}:{port}"
