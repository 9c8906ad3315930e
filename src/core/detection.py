"""Where the app runs: project, location, handler host and service account.

Sources are asked in order (option, environment, metadata server) and only until one answers.
Each answer says where it came from; each miss says everything that was tried.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import attrs

from .errors import ConfigurationError
from .ports import MetadataServer

type Environment = Mapping[str, str]

_LONGEST_LABEL = 63  # of a host name, in DNS
_ZONE = re.compile(r"projects/[^/]+/zones/([a-z]+-[a-z]+[0-9]+)-[a-z]")
_REGION = re.compile(r"projects/[^/]+/regions/([a-z]+-[a-z]+[0-9]+)")


@attrs.frozen
class Found:
    """A value and its source. `caution` tells what may be wrong with a value that is a guess."""

    value: str
    source: str
    caution: str | None = None


@attrs.frozen
class Missing:
    """Nothing found; `tried` names each source, and why it had nothing where that helps."""

    what: str
    option: str
    tried: tuple[str, ...]

    def error(self) -> ConfigurationError:
        """The exception for code that cannot do without the value."""
        return ConfigurationError(
            f"No {self.what} found. Set {self.option} in the OPTIONS of the backend. "
            f"Tried: {', '.join(self.tried)}."
        )


type Detected = Found | Missing
type Source = tuple[str, Callable[[], str | Found | None]]


def is_cloud_run(environ: Environment) -> bool:
    """Whether this is a container of a Cloud Run service."""
    return "K_SERVICE" in environ and "K_REVISION" in environ


def is_app_engine(environ: Environment) -> bool:
    """Whether this is an App Engine instance."""
    return "GAE_APPLICATION" in environ or "GAE_SERVICE" in environ


def find_project(option: str | None, environ: Environment, metadata: MetadataServer) -> Detected:
    """The id of the Google Cloud project."""

    def app_engine() -> str | None:
        # GAE_APPLICATION is CODE~PROJECT; the code names a region, but not by its name.
        return environ.get("GAE_APPLICATION", "").partition("~")[2] or None

    return _first(
        "Google Cloud project",
        "CLOUD_TASKS_PROJECT",
        option,
        [
            *_variables(environ, "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GCP_PROJECT"),
            ("GAE_APPLICATION in the environment", app_engine),
            _metadata(metadata, "project/project-id"),
        ],
    )


def find_location(option: str | None, environ: Environment, metadata: MetadataServer) -> Detected:
    """The region of the queues: by default that of the app."""

    def region() -> str | None:
        match = _REGION.fullmatch(metadata.get("instance/region") or "")
        return match.group(1) if match else None

    def zone() -> str | None:
        match = _ZONE.fullmatch(metadata.get("instance/zone") or "")
        return match.group(1) if match else None

    return _first(
        "Cloud Tasks location",
        "CLOUD_TASKS_LOCATION",
        option,
        [
            *_variables(environ, "CLOUD_TASKS_LOCATION", "CLOUD_RUN_REGION", "GOOGLE_CLOUD_REGION"),
            ("instance/region of the metadata server", region),
            ("instance/zone of the metadata server", zone),
        ],
    )


def find_service_account(
    option: str | None, environ: Environment, metadata: MetadataServer
) -> Detected:
    """The e-mail of the account whose token tasks carry: by default the app's own."""

    def email() -> str | None:
        # Off Google's own machines (GKE without an account, say) the entry may be no e-mail.
        value = metadata.get("instance/service-accounts/default/email")
        return value if value and "@" in value else None

    return _first(
        "service account",
        "OIDC_SERVICE_ACCOUNT_EMAIL",
        option,
        [
            *_variables(environ, "OIDC_SERVICE_ACCOUNT_EMAIL"),
            ("instance/service-accounts/default/email of the metadata server", email),
        ],
    )


def find_handler_host(
    option: str | None, environ: Environment, metadata: MetadataServer
) -> Detected:
    """The address under which Cloud Tasks reaches the app, such as `https://app.example.com`."""
    sources = [*_variables(environ, "TASK_HANDLER_HOST", "SERVICE_URL")]
    if is_cloud_run(environ):
        sources.append(
            ("the Cloud Run service's own URL", lambda: _cloud_run_url(environ, metadata))
        )
    if is_app_engine(environ):
        sources.append(
            ("the App Engine version's own URL", lambda: _app_engine_url(environ, metadata))
        )
    found = _first("task handler host", "TASK_HANDLER_HOST", option, sources)
    return attrs.evolve(found, value=found.value.rstrip("/")) if isinstance(found, Found) else found


def _cloud_run_url(environ: Environment, metadata: MetadataServer) -> str | None:
    """`https://SERVICE-PROJECT_NUMBER.REGION.run.app`, if its first label fits into DNS."""
    number = metadata.get("project/numeric-project-id")
    region = _REGION.fullmatch(metadata.get("instance/region") or "")
    label = f"{environ['K_SERVICE']}-{number}"
    if not number or not region or len(label) > _LONGEST_LABEL:
        return None
    return f"https://{label}.{region.group(1)}.run.app"


def _app_engine_url(environ: Environment, metadata: MetadataServer) -> Found | None:
    """`https://VERSION-dot-SERVICE-dot-PROJECT.appspot.com`, which only older apps answer to."""
    project = find_project(None, environ, metadata)
    service, version = environ.get("GAE_SERVICE"), environ.get("GAE_VERSION")
    if isinstance(project, Missing) or ":" in project.value or not service or not version:
        return None
    label = f"{version}-dot-{service}-dot-{project.value}"
    if len(label) > _LONGEST_LABEL:
        return None
    return Found(
        f"https://{label}.appspot.com",
        "",
        caution=(
            "apps made since February 2020 have a region id in their host name that stands "
            "nowhere in the environment; if tasks do not arrive, set SERVICE_URL or "
            "TASK_HANDLER_HOST to the app's real address"
        ),
    )


def _variables(environ: Environment, *names: str) -> list[Source]:
    return [(f"{name} in the environment", partial(environ.get, name)) for name in names]


def _metadata(metadata: MetadataServer, path: str) -> Source:
    return (f"{path} of the metadata server", lambda: metadata.get(path))


def _first(what: str, option_name: str, option: str | None, sources: Iterable[Source]) -> Detected:
    if option:
        return Found(option, f"{option_name} in OPTIONS")
    tried = [f"{option_name} in OPTIONS"]
    for source, ask in sources:
        match ask():
            case Found(value, _, caution):
                return Found(value, source, caution)
            case str(value) if value:
                return Found(value, source)
        tried.append(source)
    return Missing(what, option_name, tuple(tried))
