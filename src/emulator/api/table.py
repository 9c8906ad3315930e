"""The table of all methods of the API: those of `CloudTasks`, locations and operations."""

from ..state.state_machine import Service
from .batches import Batches
from .cmek import CmekConfigs
from .driver import Driver
from .iam import Policies
from .locations import Locations
from .queues import Queues
from .tasks import Tasks


class Api:
    """The API of a `Service`.

    Args:
        service: the queues and tasks.
        driver: the program that runs the API.

    Attributes:
        methods: all methods by gRPC path.
    """

    def __init__(self, service: Service, driver: Driver) -> None:
        self._tasks = Tasks(service, driver)
        self._batches = Batches(service, driver, self._tasks.create)
        self._policies = Policies(service)
        self._cmek = CmekConfigs()
        self.methods = (
            Queues(service, driver).methods
            | self._tasks.methods
            | self._batches.methods
            | self._policies.methods
            | self._cmek.methods
            | Locations(service).methods
        )

    def has_url(self, queue: str) -> bool:
        """Return whether a queue overrides the host of its tasks' URLs."""
        return self._tasks.has_url(queue)

    def reset(self) -> None:
        """Remove all operations, IAM policies and CMEK configurations."""
        self._batches.reset()
        self._policies.reset()
        self._cmek.reset()
