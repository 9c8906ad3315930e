"""The findings of `cloudtasks_doctor`: what a queue and the probe task of a site show.

The probe task is a Cloud Task that the endpoint answers with 200 without running a function.
"""

import re
from collections.abc import Collection, Mapping
from enum import Enum
from http import HTTPStatus

import attrs

from .cloud_queues import CloudQueue
from .options import Authentication
from .retry_policy import Repeater, TaskPolicy, repeater

_HTTP_STATUS = re.compile(r"HTTP status code ([0-9]{3})")


class Level(Enum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@attrs.frozen
class Finding:
    """The result of one step.

    Attributes:
        step: the name of the step.
        level: how serious it is.
        message: what was found.
        remedy: what to do; empty if there is nothing to do.
    """

    step: str
    level: Level
    message: str
    remedy: str = ""


def ok(step: str, message: str) -> Finding:
    """Return a finding without a fault."""
    return Finding(step, Level.OK, message)


# The queues.


def examine_queue(
    name: str, queue: CloudQueue | None, policies: Collection[TaskPolicy], *, sends_retry: bool
) -> Finding:
    """Return the finding about a queue that a backend sends tasks to.

    Args:
        name: the id of the queue.
        queue: the queue; None if it does not exist.
        policies: the policies of the tasks, completed by the defaults of the backend.
        sends_retry: whether the client can send the retry settings of a single task.
    """
    step = f"queue {name}"
    if queue is None:
        return Finding(
            step,
            Level.ERROR,
            "The queue does not exist.",
            "Run: python manage.py cloudtasks_queues apply",
        )
    if queue.state != "RUNNING":
        return Finding(
            step,
            Level.ERROR,
            f"The queue is {queue.state}, so it dispatches no tasks.",
            f"Run: python manage.py cloudtasks_queues resume {name}",
        )
    settings = queue.settings
    limit = settings.max_attempts
    # Only tasks without a policy follow the retry settings of the queue.
    by_queue = [
        p for p in policies if repeater(p, sends_retry_config=sends_retry) is Repeater.QUEUE
    ]
    wanted = max((policy.limit for policy in by_queue), default=0)
    if limit is not None and 0 < limit < wanted:
        return Finding(
            step,
            Level.WARNING,
            f"The queue gives a task up after {limit} attempts. Tasks without a policy of "
            f"their own may have {wanted} here.",
            "Set max_attempts of the queue to -1 in CLOUD_QUEUES, or give the tasks "
            "max_attempts or MAX_ATTEMPTS.",
        )
    if by_queue and settings.max_retry_duration:
        return Finding(
            step,
            Level.WARNING,
            f"The queue gives a task up after {settings.max_retry_duration}, also if it has "
            "attempts left.",
            "Set max_retry_duration of the queue to 0 in CLOUD_QUEUES.",
        )
    return ok(step, "The queue exists and dispatches tasks.")


# The probe.


@attrs.frozen(kw_only=True)
class ProbeTaskStatus:
    """What Cloud Tasks shows about the probe. If the probe has arrived, it is deleted.

    Attributes:
        dispatches: the number of dispatches.
        responses: the number of responses.
        status: the text of the last response, such as `NOT_FOUND(5): HTTP status code 404`; empty
            without one.
    """

    dispatches: int = 0
    responses: int = 0
    status: str = ""

    @property
    def http_status(self) -> int | None:
        """The HTTP status of the last response; None without one."""
        found = _HTTP_STATUS.search(self.status)
        return int(found[1]) if found else None


_PROBE = "probe"


def diagnose(
    status: ProbeTaskStatus, *, url: str, mode: Authentication, account: str | None
) -> Finding | None:
    """Return the finding for a probe that has not arrived; None while it can still arrive.

    Args:
        status: what Cloud Tasks shows.
        url: the URL that the probe calls.
        mode: the authentication of the endpoint; never `AUTO`.
        account: the service account of the probe's token; None without a token.
    """
    code = status.http_status
    if code is None:
        return None
    message, remedy = _meaning(code, mode)
    remedy = remedy.format(url=url, account=account or "the account of the tasks")
    return Finding(_PROBE, Level.ERROR, f"{url} answered {code}. {message}", remedy)


_IN_LOG = "The log of the app has the reason."
_MEANINGS: Mapping[int, tuple[str, str]] = {
    400: (
        "Django or a proxy refused the request before it reached the view.",
        f"Add the host to ALLOWED_HOSTS. {_IN_LOG}",
    ),
    401: (
        "The endpoint did not accept the token. Its audience is probably another one.",
        (
            "Set the same OIDC_AUDIENCE here and in the app, or add the old one to "
            f"OIDC_AUDIENCE_FALLBACKS. {_IN_LOG}"
        ),
    ),
    403: (
        "Cloud Run refused the caller, or the endpoint does not accept the account of the token.",
        (
            "Grant {account} the role roles/run.invoker on the service, or deploy the service "
            "with --allow-unauthenticated. If the log of the app says that it refused the request, "
            "correct OIDC_SERVICE_ACCOUNT_EMAIL."
        ),
    ),
    404: (
        "There is no endpoint at this address, or the app does not have this backend.",
        (
            "Include django_tasks_cloud_tasks.urls, or correct TASK_HANDLER_PATH. If the app runs "
            "an older version, deploy it."
        ),
    ),
    405: ("Another view answers there.", "Correct TASK_HANDLER_PATH."),
    413: ("A proxy limits the size of requests.", "Raise its limit to at least 1 MB."),
    429: (
        "No instance was free, or a proxy limits the rate.",
        "Raise the maximum number of instances, or lower the limits of the queue.",
    ),
    503: (
        "No server answered at this address, or the app was not ready.",
        "Start the app, and check that Cloud Tasks can reach {url}.",
    ),
    504: (
        "No answer came within the dispatch deadline.",
        "Check the server and its number of workers.",
    ),
}
_WRONG_SIGNATURE = (
    "The endpoint did not accept the signature.",
    "Use the same SECRET_KEY here and in the app, or add the old key to SECRET_KEY_FALLBACKS.",
)
_REDIRECT = (
    "Cloud Tasks does not follow redirects.",
    (
        "With SECURE_SSL_REDIRECT behind a proxy, set SECURE_PROXY_SSL_HEADER. Otherwise correct "
        "TASK_HANDLER_HOST and TASK_HANDLER_PATH to the final address."
    ),
)


def _meaning(code: int, mode: Authentication) -> tuple[str, str]:
    """Return the meaning of a status, and what to do."""
    if 300 <= code < 400:  # noqa: PLR2004 - the statuses of redirects
        return _REDIRECT
    if code == HTTPStatus.UNAUTHORIZED and mode is Authentication.SIGNATURE:
        return _WRONG_SIGNATURE
    if code in _MEANINGS:
        return _MEANINGS[code]
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "The app or its platform failed.", _IN_LOG
    return "Only the statuses 200 to 299 remove a task.", _IN_LOG


def arrived(seconds: float) -> Finding:
    """Return the finding for a probe that has arrived.

    Args:
        seconds: the time from its creation.
    """
    return ok(
        _PROBE, f"A task was created, delivered, authenticated and answered in {seconds:.1f} s."
    )


def missing(status: ProbeTaskStatus, *, url: str, timeout: float) -> Finding:
    """Return the finding for a probe that has not arrived in time.

    Args:
        status: what Cloud Tasks shows.
        url: the URL that the probe calls.
        timeout: the seconds that were waited.
    """
    if not status.dispatches:
        return Finding(
            _PROBE,
            Level.ERROR,
            f"Cloud Tasks did not dispatch the task within {timeout:g} s.",
            "The queue may be paused, have a low rate limit, or have many tasks. Run: python "
            "manage.py cloudtasks_queues list",
        )
    return Finding(
        _PROBE,
        Level.ERROR,
        f"Cloud Tasks called {url}, and no answer came within {timeout:g} s.",
        "Check that the app runs there and that Cloud Tasks can reach it. A private address cannot "
        "be reached.",
    )


def unknown(reason: str) -> Finding:
    """Return the finding for a probe whose status cannot be read."""
    return Finding(
        _PROBE,
        Level.WARNING,
        f"A task was created, and it is not known whether it arrived. {reason}",
        "Grant this account the role roles/cloudtasks.viewer.",
    )
