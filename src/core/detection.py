"""Where the app runs: project, location, handler host and service account.

Sources are asked in order (option, environment, metadata server) and only until one answers.
Each answer says where it came from; each miss says everything that was tried.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import attrs

from .errors import ConfigurationError
from .names import is_location_id, is_project_id
from .options import is_email, is_web_address
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
    """Nothing found; `tried` names each source."""

    what: str
    option: str
    tried: tuple[str, ...]

    def error(self, *, emulated: bool = False) -> ConfigurationError:
        """The exception for code that cannot do without the value.

        Args:
            emulated: whether an emulator is in use already.
        """
        laptop = (
            "beside an emulator any value will do"
            if emulated
            else "on a laptop start the emulator and set CLOUD_TASKS_EMULATOR_HOST, and nothing is "
            "missing"
        )
        return ConfigurationError(
            f"No {self.what} found. Set {self.option} in the OPTIONS of the backend; {laptop}. "
            f"Tried: {', '.join(self.tried)}."
        )


@attrs.frozen(kw_only=True)
class Platform:
    """What is asked for everything that was not given.

    Attributes:
        environ: the environment's variables.
        metadata: Google Cloud's metadata server.
        emulated: whether tasks go to an emulator. Then nothing is Google Cloud's, and what is
            missing has a default: an emulator takes any project, and the app is `runserver`'s.
    """

    environ: Environment
    metadata: MetadataServer
    emulated: bool = False


type Detected = Found | Missing
type Source = tuple[str, Callable[[], str | Found | None]]


def is_cloud_run(environ: Environment) -> bool:
    """Whether this is a container of a Cloud Run service."""
    return "K_SERVICE" in environ and "K_REVISION" in environ


def is_app_engine(environ: Environment) -> bool:
    """Whether this is an App Engine instance."""
    return "GAE_APPLICATION" in environ or "GAE_SERVICE" in environ


def find_project(option: str | None, platform: Platform) -> Detected:
    """The id of the Google Cloud project.

    Raises:
        ConfigurationError: the environment has something else.
    """

    def app_engine() -> str | None:
        # GAE_APPLICATION is CODE~PROJECT; the code names a region, but not by its name.
        return platform.environ.get("GAE_APPLICATION", "").partition("~")[2] or None

    found = _first(
        "Google Cloud project",
        "CLOUD_TASKS_PROJECT",
        option,
        [
            *_variables(platform, "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GCP_PROJECT"),
            ("GAE_APPLICATION in the environment", app_engine),
            (
                "project/project-id of the metadata server",
                lambda: platform.metadata.get("project/project-id", is_project_id),
            ),
            *_beside_emulator(platform, "local-project"),
        ],
    )
    return _checked(found, is_project_id, "project id: write one such as 'my-project-123'")


def find_location(option: str | None, platform: Platform) -> Detected:
    """The region of the queues: by default that of the app.

    Raises:
        ConfigurationError: the environment has something else.
    """

    def region() -> str | None:
        return _last_part(_REGION, platform.metadata.get("instance/region", _is(_REGION)))

    def zone() -> str | None:
        return _last_part(_ZONE, platform.metadata.get("instance/zone", _is(_ZONE)))

    found = _first(
        "Cloud Tasks location",
        "CLOUD_TASKS_LOCATION",
        option,
        [
            *_variables(
                platform, "CLOUD_TASKS_LOCATION", "CLOUD_RUN_REGION", "GOOGLE_CLOUD_REGION"
            ),
            ("instance/region of the metadata server", region),
            ("instance/zone of the metadata server", zone),
            *_beside_emulator(platform, "local"),
        ],
    )
    return _checked(found, is_location_id, "location: write a region such as 'europe-west1'")


def find_service_account(option: str | None, platform: Platform) -> Detected:
    """The e-mail of the account whose token tasks carry: by default the app's own.

    Raises:
        ConfigurationError: the environment has something else; or this is Cloud Run or App Engine,
            where there is one, and the metadata server did not tell it.
    """
    path = "instance/service-accounts/default/email"
    found = _first(
        "service account",
        "OIDC_SERVICE_ACCOUNT_EMAIL",
        option,
        [
            *_variables(platform, "OIDC_SERVICE_ACCOUNT_EMAIL"),
            (f"{path} of the metadata server", lambda: platform.metadata.get(path, is_email)),
        ],
    )
    always_there = is_cloud_run(platform.environ) or is_app_engine(platform.environ)
    if isinstance(found, Missing) and always_there and not platform.metadata.is_absent:
        raise ConfigurationError(
            "The metadata server has no service account for this app, though Cloud Run and App "
            "Engine always have one. It is asked again in a few seconds."
        )
    return _checked(found, is_email, "e-mail address of a service account")


def find_handler_host(option: str | None, platform: Platform) -> Detected:
    """The address under which Cloud Tasks reaches the app, such as `https://app.example.com`.

    Raises:
        ConfigurationError: a variable of the environment has something else.
    """
    sources = _variables(platform, "TASK_HANDLER_HOST", "SERVICE_URL")
    if is_cloud_run(platform.environ):
        sources.append(("the Cloud Run service's own URL", lambda: _cloud_run_url(platform)))
    if is_app_engine(platform.environ):
        sources.append(("the App Engine version's own URL", lambda: _app_engine_url(platform)))
    sources += _beside_emulator(platform, "http://localhost:8000")
    found = _first("task handler host", "TASK_HANDLER_HOST", option, sources)
    if isinstance(found, Missing):
        return found
    if not is_web_address(found.value):
        raise ConfigurationError(
            f"{found.value!r} ({found.source}) is no task handler host: write a URL without a "
            "path, such as 'https://app.example.com'."
        )
    return attrs.evolve(found, value=found.value.rstrip("/"))


def _cloud_run_url(platform: Platform) -> str | None:
    """`https://SERVICE-PROJECT_NUMBER.REGION.run.app`, if its first label fits into DNS."""
    number = platform.metadata.get("project/numeric-project-id", str.isdecimal)
    region = _last_part(_REGION, platform.metadata.get("instance/region", _is(_REGION)))
    label = f"{platform.environ['K_SERVICE']}-{number}"
    if not number or not region or len(label) > _LONGEST_LABEL:
        return None
    return f"https://{label}.{region}.run.app"


def _app_engine_url(platform: Platform) -> Found | None:
    """`https://VERSION-dot-SERVICE-dot-PROJECT.appspot.com`, which only older apps answer to."""
    project, environ = find_project(None, platform), platform.environ
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


def _is(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _last_part(pattern: re.Pattern[str], value: str | None) -> str | None:
    """The id at the end of a resource name such as `projects/1/regions/europe-west1`."""
    match = pattern.fullmatch(value or "")
    return match.group(1) if match else None


def _checked(found: Detected, is_valid: Callable[[str], bool], what: str) -> Detected:
    """What was found, if it can be what it is taken for.

    Raises:
        ConfigurationError: it cannot.
    """
    if isinstance(found, Found) and not is_valid(found.value):
        raise ConfigurationError(f"{found.value!r} ({found.source}) is no {what}.")
    return found


def _variables(platform: Platform, *names: str) -> list[Source]:
    get = platform.environ.get
    return [(f"{name} in the environment", partial(get, name)) for name in names]


def _beside_emulator(platform: Platform, value: str) -> list[Source]:
    return [("the default beside an emulator", lambda: value)] if platform.emulated else []


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
