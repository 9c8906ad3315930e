"""What a synthetic delivery carries, and the view recognizes."""

import attrs

from ...core.outcomes import Succeeded

PROBE_KEY = "django_tasks_cloud_tasks.probe"
"""Where `request.META` has the probe. No header of a request can have this name."""


@attrs.define(eq=False)
class Probe:
    """Travels with a synthetic delivery, and learns how far it came.

    Attributes:
        arrived: whether the view was reached.
        is_whole: whether the body arrived as well.
    """

    arrived: bool = False
    is_whole: bool = False

    def arrive(self, body: bytes | None) -> Succeeded:
        """How the request ends.

        Args:
            body: None where the site does not take it.
        """
        self.arrived, self.is_whole = True, body is not None
        return Succeeded("probe")
