"""The APIs over REST: JSON according to the proto3 mapping, and errors in Google's format.

Cloud Tasks has the version v2, and Cloud Scheduler has the version v1.
"""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

import attrs
from aiohttp import web
from google.protobuf.json_format import MessageToDict, ParseDict

from ..api.method import Method
from ..api.table import Api
from ..errors import ApiError, Status, invalid

logger = logging.getLogger(__name__)

_SERVICE = "google.cloud.tasks.v2.CloudTasks/"
_SCHEDULER = "google.cloud.scheduler.v1.CloudScheduler/"
_LOCATIONS = "google.cloud.location.Locations/"
_QUEUE = "projects/*/locations/*/queues/*"
_TASK = f"{_QUEUE}/tasks/*"
_JOB = "projects/*/locations/*/jobs/*"

# HTTP method; path, in which `{field=...}` is a field of the request; gRPC method; the field of the
# request that the body contains ("*" for the whole request, empty for no body).
_LOCATION_ROUTES = (
    ("GET", "{name=projects/*}/locations", _LOCATIONS + "ListLocations", ""),
    ("GET", "{name=projects/*/locations/*}", _LOCATIONS + "GetLocation", ""),
)
_CLOUD_TASKS_ROUTES = (
    *_LOCATION_ROUTES,
    ("GET", "{name=projects/*/locations/*/cmekConfig}", _SERVICE + "GetCmekConfig", ""),
    (
        "PATCH",
        "{cmek_config.name=projects/*/locations/*/cmekConfig}",
        _SERVICE + "UpdateCmekConfig",
        "cmek_config",
    ),
    (
        "GET",
        "{name=projects/*/locations/*/operations/*}",
        "google.longrunning.Operations/GetOperation",
        "",
    ),
    ("GET", "{parent=projects/*/locations/*}/queues", _SERVICE + "ListQueues", ""),
    ("POST", "{parent=projects/*/locations/*}/queues", _SERVICE + "CreateQueue", "queue"),
    ("GET", f"{{name={_QUEUE}}}", _SERVICE + "GetQueue", ""),
    ("PATCH", f"{{queue.name={_QUEUE}}}", _SERVICE + "UpdateQueue", "queue"),
    ("DELETE", f"{{name={_QUEUE}}}", _SERVICE + "DeleteQueue", ""),
    ("POST", f"{{name={_QUEUE}}}:purge", _SERVICE + "PurgeQueue", "*"),
    ("POST", f"{{name={_QUEUE}}}:pause", _SERVICE + "PauseQueue", "*"),
    ("POST", f"{{name={_QUEUE}}}:resume", _SERVICE + "ResumeQueue", "*"),
    ("POST", f"{{resource={_QUEUE}}}:getIamPolicy", _SERVICE + "GetIamPolicy", "*"),
    ("POST", f"{{resource={_QUEUE}}}:setIamPolicy", _SERVICE + "SetIamPolicy", "*"),
    ("POST", f"{{resource={_QUEUE}}}:testIamPermissions", _SERVICE + "TestIamPermissions", "*"),
    ("GET", f"{{parent={_QUEUE}}}/tasks", _SERVICE + "ListTasks", ""),
    ("POST", f"{{parent={_QUEUE}}}/tasks", _SERVICE + "CreateTask", "*"),
    ("POST", f"{{parent={_QUEUE}}}/tasks:batchCreate", _SERVICE + "BatchCreateTasks", "*"),
    ("POST", f"{{parent={_QUEUE}}}/tasks:batchDelete", _SERVICE + "BatchDeleteTasks", "*"),
    ("GET", f"{{name={_TASK}}}", _SERVICE + "GetTask", ""),
    ("DELETE", f"{{name={_TASK}}}", _SERVICE + "DeleteTask", ""),
    ("POST", f"{{name={_TASK}}}:run", _SERVICE + "RunTask", "*"),
)
_CLOUD_SCHEDULER_ROUTES = (
    *_LOCATION_ROUTES,
    ("GET", "{parent=projects/*/locations/*}/jobs", _SCHEDULER + "ListJobs", ""),
    ("POST", "{parent=projects/*/locations/*}/jobs", _SCHEDULER + "CreateJob", "job"),
    ("GET", f"{{name={_JOB}}}", _SCHEDULER + "GetJob", ""),
    ("PATCH", f"{{job.name={_JOB}}}", _SCHEDULER + "UpdateJob", "job"),
    ("DELETE", f"{{name={_JOB}}}", _SCHEDULER + "DeleteJob", ""),
    ("POST", f"{{name={_JOB}}}:pause", _SCHEDULER + "PauseJob", "*"),
    ("POST", f"{{name={_JOB}}}:resume", _SCHEDULER + "ResumeJob", "*"),
    ("POST", f"{{name={_JOB}}}:run", _SCHEDULER + "RunJob", "*"),
)
_TABLES = {"v1": _CLOUD_SCHEDULER_ROUTES, "v2": _CLOUD_TASKS_ROUTES}

# BufferTask exists only over REST. The body of the request becomes the body of the task.
_BUFFER = re.compile(r"(projects/[^/]+/locations/[^/]+/queues/[^/:]+)/tasks(?:/([^/:]*))?:buffer")

# The system parameters of Google's APIs. They are not fields of a request.
_SYSTEM_PARAMETERS = {
    *("alt", "$alt", "prettyPrint", "$prettyPrint", "key", "quotaUser", "fields", "access_token"),
    *("callback", "oauth_token", "upload_protocol", "uploadType", "$.xgafv"),
}


@attrs.frozen
class _Route:
    http_method: str
    path: re.Pattern[str]
    fields: tuple[str, ...]
    method: Method
    body: str


class Rest:
    """REST for the methods of an `Api`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._routes = {
            version: [
                _route(http_method, path, api.methods["/" + name], body)
                for http_method, path, name, body in table
                if "/" + name in api.methods
            ]
            for version, table in _TABLES.items()
        }

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request to `/v1/...` or `/v2/...`."""
        version, path = request.path.removeprefix("/").split("/", 1)
        body = await request.read()
        try:
            if (
                version == "v2"
                and request.method == "POST"
                and (buffered := _BUFFER.fullmatch(path))
            ):
                content_type = request.headers.get("Content-Type")
                queue, task_id = buffered.group(1), buffered.group(2)
                document = self._buffer(queue, task_id, body, content_type)
            else:
                document = self._call(version, request.method, path, request.query, body)
        except ApiError as error:
            return _error(error)
        except Exception:
            logger.exception("The REST request %s %r failed.", request.method, request.path)
            return _error(ApiError(Status.INTERNAL, "Internal error encountered."))
        return web.json_response(document)

    def _call(
        self, version: str, http_method: str, path: str, query: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        for route in self._routes[version]:
            match = route.path.fullmatch(path)
            if match and route.http_method == http_method:
                break
        else:
            raise ApiError(Status.NOT_FOUND, f"There is no method {http_method} /{version}/{path}.")
        message = route.method.request()
        if route.method.is_refused:
            route.method.answer(message)  # This raises. The message lacks the fields of the path.
        _read_query(query, message)
        if route.body:
            _read_json(body, message if route.body == "*" else getattr(message, route.body))
        for field, value in zip(route.fields, match.groups(), strict=True):
            *parents, last = field.split(".")
            target = message
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, last, value)
        return MessageToDict(
            route.method.answer(message),
            use_integers_for_enums="enum-encoding=int" in query.get("$alt", ""),
        )

    def _buffer(
        self, queue: str, task_id: str | None, body: bytes, content_type: str | None
    ) -> dict[str, Any]:
        """Create a task with the body of this request. The queue must override the host."""
        request = self._api.methods["/" + _SERVICE + "CreateTask"].request(parent=queue)
        self._api.methods["/" + _SERVICE + "GetQueue"].answer(
            self._api.methods["/" + _SERVICE + "GetQueue"].request(name=queue)
        )
        if not self._api.has_url(queue):
            raise invalid(
                "BufferTask needs a queue whose HTTP target has a URI override with a host."
            )
        if task_id:
            request.task.name = f"{queue}/tasks/{task_id}"
        http = request.task.http_request
        http.body = body
        if content_type:
            http.headers["Content-Type"] = content_type
        created = self._api.methods["/" + _SERVICE + "CreateTask"].answer(request)
        return {"task": MessageToDict(created)}


def _route(http_method: str, template: str, method: Method, body: str) -> _Route:
    fields: list[str] = []

    def capture(match: re.Match[str]) -> str:
        fields.append(match.group(1))
        # A project id may contain a colon (`example.com:shop`). Elsewhere a colon starts a verb.
        path = match.group(2).replace("projects/*", "projects/[^/]+", 1)
        return "(" + path.replace("*", "[^/:]+") + ")"

    pattern = re.sub(r"\{([\w.]+)=([^}]+)\}", capture, template)
    return _Route(http_method, re.compile(pattern), tuple(fields), method, body)


def _read_query(query: Mapping[str, str], message: Any) -> None:  # noqa: ANN401 - a message
    fields = {
        name: _snake_free(value) if name in {"updateMask", "update_mask"} else value
        for name, value in query.items()
        if name not in _SYSTEM_PARAMETERS
    }
    document: dict[str, Any] = {}
    for name, value in fields.items():
        *parents, last = name.split(".")
        inner = document
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise invalid(f"The parameter {parent!r} is given as a value and as a message.")
        inner[last] = value
    _parse(document, message)


def _read_json(body: bytes, message: Any) -> None:  # noqa: ANN401 - a message
    if not body.strip():
        return
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"Invalid JSON payload received. {error}") from error
    _parse(document, message)


def _parse(document: Any, message: Any) -> None:  # noqa: ANN401 - JSON and a message
    try:
        ParseDict(document, message)
    except Exception as error:
        # ParseDict raises several exceptions besides ParseError, for example for infinities, lone
        # surrogates, and lists instead of messages. All of them mean an invalid document.
        raise invalid(f"Invalid JSON payload received. {error}") from error


def _snake_free(mask: str) -> str:
    """Convert a field mask to camelCase for its JSON form. Clients also send snake_case."""
    return re.sub(r"_([a-z])", lambda match: match.group(1).upper(), mask)


def _error(error: ApiError) -> web.Response:
    status = error.status.http
    document: dict[str, Any] = {
        "code": status,
        "message": error.message,
        "status": error.status.name,
    }
    if error.help:
        links = [{"description": error.help.description, "url": error.help.url}]
        document["details"] = [{"@type": "type.googleapis.com/google.rpc.Help", "links": links}]
    return web.json_response({"error": document}, status=status)
