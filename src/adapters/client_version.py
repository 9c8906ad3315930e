"""The version and the capabilities of the installed google-cloud-tasks.

This module does not import google-cloud-tasks, because the import takes half a second.
"""

import re
from functools import cache
from importlib.metadata import version

RETRY_CONFIG_SINCE = (2, 25)
"""The first version whose `Task` has `retry_config`, the retry settings of one task."""


@cache
def client_version() -> str:
    """Return the version of google-cloud-tasks."""
    return version("google-cloud-tasks")


@cache
def sends_retry_config() -> bool:
    """Return whether the client can send the retry settings of one task."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", client_version())[:2])
    return numbers >= RETRY_CONFIG_SINCE
