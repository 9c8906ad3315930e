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
        queue: id of the queue, or None when the request did not come from a queue.
        task: id of the Cloud Task, likewise.
        retry_count: dispatches before this one.
    """

    queue: str | None = None
    task: str | None = None
    retry_count: int = 0

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Self:
        """Read `X-CloudTasks-*` from a mapping whose look-up ignores case.

        Headers that are absent or make no sense count as absent: a delivery by hand has none.
        """
        count = headers.get("X-CloudTasks-TaskRetryCount", "")
        return cls(
            queue=headers.get("X-CloudTasks-QueueName"),
            task=headers.get("X-CloudTasks-TaskName"),
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
