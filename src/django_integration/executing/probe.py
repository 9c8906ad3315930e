"""The probe in a synthetic delivery, by which the view recognizes it."""

import attrs

from ...core.outcomes import Succeeded

PROBE_KEY = "django_tasks_cloud_tasks.probe"
"""The key of the probe in `request.META`. No header of a request can have this name."""


@attrs.define(eq=False)
class Probe:
    """The probe records whether a synthetic delivery reached the view.

    Attributes:
        arrived: whether the request reached the view.
        is_whole: whether the view also received the body.
    """

    arrived: bool = False
    is_whole: bool = False

    def arrive(self, body: bytes | None) -> Succeeded:
        """Record the arrival at the view. Return the outcome of the request.

        Args:
            body: the body; None if the view could not read it.
        """
        self.arrived, self.is_whole = True, body is not None
        return Succeeded("probe")
