"""What Cloud Tasks says about a delivery in the headers of its request."""

import re
from collections.abc import Mapping
from typing import Self

import attrs

# A retry count that no queue reaches in the 31 days a task lives is not worth a longer list of
# workers: the number of the attempt stays there.
_HIGHEST_RETRY_COUNT = 99_999
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


@attrs.frozen(kw_only=True)
class Delivery:
    """One dispatch of a task.

    Attributes:
        retry_count: dispatches before this one.
    """

    retry_count: int = 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, object]) -> Self:
        """Read `X-CloudTasks-*` from where CGI, WSGI and Django's `request.META` keep headers.

        Headers that are absent or make no sense count as absent: a delivery by hand has none.
        """
        count = str(environ.get("HTTP_X_CLOUDTASKS_TASKRETRYCOUNT", ""))
        return cls(
            retry_count=(min(int(count), _HIGHEST_RETRY_COUNT) if _COUNT.fullmatch(count) else 0),
        )

    @property
    def attempt(self) -> int:
        """The number of this attempt, 1 for the first.

        From the retry count: the execution count leaves out 5xx answers and time-outs, as
        production was seen to do.
        """
        return self.retry_count + 1

    def worker_ids(self, worker_id: str) -> list[str]:
        """One entry an attempt, this worker's last; who made the earlier ones is not known."""
        return ["unknown"] * self.retry_count + [worker_id]
