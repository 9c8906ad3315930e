"""Detection of the project, the location, the handler host and the service account.

The sources are an option, the environment and the metadata server. They are read in this order
until one of them has a value. The result names the source of the value, or all sources without one.
A detection is a generator (`Finding`): it yields a request to the metadata server (`Ask`), and its
caller sends the answer back.
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial

import attrs

from .errors import ConfigurationError
from .names import is_location_id, is_project_id
from .options import is_email, is_web_address

type Environment = Mapping[str, str]

_LONGEST_LABEL = 63  # of a host name, in DNS
_ZONE = re.compile(r"projects/[^/]+/zones/([a-z]+-[a-z]+[0-9]+)-[a-z]")
_REGION = re.compile(r"projects/[^/]+/regions/([a-z]+-[a-z]+[0-9]+)")


@attrs.frozen
class Found:
    """A value and its source.

    Attributes:
        value: the value.
        source: the name of the source, for messages.
        caution: why the value may be wrong; None unless it is a guess.
    """

    value: str
    source: str
    caution: str | None = None


@attrs.frozen
class Missing:
    """The result of a detection that found no value.

    Attributes:
        what: the name of the value, for messages.
        option: the option that sets the value.
        tried: the names of all sources.
    """

    what: str
    option: str
    tried: tuple[str, ...]

    def error(self, *, emulated: bool = False) -> ConfigurationError:
        """Return the exception for code that needs the value.

        Args:
            emulated: whether an emulator is in use; the advice in the message depends on it.
        """
        laptop = (
            "with an emulator any value works"
            if emulated
            else "on a laptop, you can start the emulator and set CLOUD_TASKS_EMULATOR_HOST instead"
        )
        return ConfigurationError(
            f"No {self.what} found. Set {self.option} in the OPTIONS of the backend; {laptop}. "
            f"Tried: {', '.join(self.tried)}."
        )


@attrs.frozen(kw_only=True)
class Platform:
    """The platform on which the app runs.

    Attributes:
        environ: the environment variables.
        emulated: whether tasks go to an emulator. Missing values then have defaults: the emulator
            accepts any project and location, and the app is expected at the address of `runserver`.
    """

    environ: Environment
    emulated: bool = False


@attrs.frozen
class Ask:
    """A request to the metadata server.

    Attributes:
        path: the path of the value.
        is_valid: returns whether a text can be the value.
    """

    path: str
    is_valid: Callable[[str], bool]


@attrs.frozen
class MetadataAnswer:
    """The answer of the metadata server.

    Attributes:
        value: the value; None if there is none.
        is_absent: whether it is certain that there is no metadata server.
    """

    value: str | None
    is_absent: bool


type Detected = Found | Missing
type Finding[R] = Generator[Ask, MetadataAnswer, R]
type Asking = Callable[[], Finding[str | Found | None]]
type Source = tuple[str, str | Asking | None]


def is_cloud_run(environ: Environment) -> bool:
    """Return whether the process runs in a container of a Cloud Run service."""
    return "K_SERVICE" in environ and "K_REVISION" in environ


def is_app_engine(environ: Environment) -> bool:
    """Return whether the process runs on App Engine."""
    return "GAE_APPLICATION" in environ or "GAE_SERVICE" in environ


def find_project(option: str | None, platform: Platform) -> Finding[Detected]:
    """Find the id of the Google Cloud project.

    Args:
        option: the option CLOUD_TASKS_PROJECT; None if it is not set.
        platform: the platform of the app.

    Raises:
        ConfigurationError: the value in the environment is not a project id.
    """

    # GAE_APPLICATION is CODE~PROJECT. The code stands for a region, but is not the region's name.
    app_engine = platform.environ.get("GAE_APPLICATION", "").partition("~")[2]
    found = yield from _first(
        "Google Cloud project",
        "CLOUD_TASKS_PROJECT",
        option,
        [
            *_variables(platform, "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GCP_PROJECT"),
            ("GAE_APPLICATION in the environment", app_engine),
            _of_metadata("project/project-id", is_project_id),
            *_beside_emulator(platform, "local-project"),
        ],
    )
    return _checked(found, is_project_id, "a project id: write one such as 'my-project-123'")


def find_location(option: str | None, platform: Platform) -> Finding[Detected]:
    """Find the region of the queues. The default is the region of the app.

    Args:
        option: the option CLOUD_TASKS_LOCATION; None if it is not set.
        platform: the platform of the app.

    Raises:
        ConfigurationError: the value in the environment is not a region.
    """

    found = yield from _first(
        "Cloud Tasks location",
        "CLOUD_TASKS_LOCATION",
        option,
        [
            *_variables(
                platform, "CLOUD_TASKS_LOCATION", "CLOUD_RUN_REGION", "GOOGLE_CLOUD_REGION"
            ),
            _part_of_metadata("instance/region", _REGION),
            _part_of_metadata("instance/zone", _ZONE),
            *_beside_emulator(platform, "local"),
        ],
    )
    return _checked(found, is_location_id, "a location: write a region such as 'europe-west1'")


def find_service_account(option: str | None, platform: Platform) -> Finding[Detected]:
    """Find the e-mail of the service account whose token tasks carry. The default is the app's own.

    Args:
        option: the option OIDC_SERVICE_ACCOUNT_EMAIL; None if it is not set.
        platform: the platform of the app.

    Raises:
        ConfigurationError: the value in the environment is not an e-mail address; or the app runs
            on Cloud Run or App Engine, and the metadata server did not return its account.
    """
    path = "instance/service-accounts/default/email"
    always_there = is_cloud_run(platform.environ) or is_app_engine(platform.environ)

    def own() -> Finding[str | None]:
        answer = yield Ask(path, is_email)
        if answer.value is None and always_there and not answer.is_absent:
            raise ConfigurationError(
                "The metadata server has no service account for this app, but Cloud Run and "
                "App Engine always have one. The metadata server is asked again in a few seconds."
            )
        return answer.value

    found = yield from _first(
        "service account",
        "OIDC_SERVICE_ACCOUNT_EMAIL",
        option,
        [
            *_variables(platform, "OIDC_SERVICE_ACCOUNT_EMAIL"),
            (f"{path} of the metadata server", own),
        ],
    )
    return _checked(found, is_email, "the e-mail address of a service account")


def find_handler_host(option: str | None, platform: Platform) -> Finding[Detected]:
    """Find the address at which Cloud Tasks reaches the app, such as `https://app.example.com`.

    Args:
        option: the option TASK_HANDLER_HOST; None if it is not set.
        platform: the platform of the app.

    Raises:
        ConfigurationError: the value in the environment is not a URL without a path.
    """
    sources = _variables(platform, "TASK_HANDLER_HOST", "SERVICE_URL")
    if is_cloud_run(platform.environ):
        sources.append(("the Cloud Run service's own URL", partial(_cloud_run_url, platform)))
    if is_app_engine(platform.environ):
        sources.append(("the App Engine version's own URL", partial(_app_engine_url, platform)))
    sources += _beside_emulator(platform, "http://localhost:8000")
    found = yield from _first("task handler host", "TASK_HANDLER_HOST", option, sources)
    if isinstance(found, Missing):
        return found
    if not is_web_address(found.value):
        raise ConfigurationError(
            f"{found.value!r} ({found.source}) is not a task handler host: write a URL without a "
            "path, such as 'https://app.example.com'."
        )
    return attrs.evolve(found, value=found.value.rstrip("/"))


def _cloud_run_url(platform: Platform) -> Finding[str | None]:
    """Find `https://SERVICE-PROJECT_NUMBER.REGION.run.app`.

    None if the first label is longer than DNS allows, because Cloud Run then uses another name.
    """
    number = (yield Ask("project/numeric-project-id", str.isdecimal)).value
    region = yield from _last_part(_REGION, "instance/region")
    label = f"{platform.environ['K_SERVICE']}-{number}"
    if not number or not region or len(label) > _LONGEST_LABEL:
        return None
    return f"https://{label}.{region}.run.app"


def _app_engine_url(platform: Platform) -> Finding[Found | None]:
    """Find `https://VERSION-dot-SERVICE-dot-PROJECT.appspot.com`, the address of older apps."""
    project, environ = (yield from find_project(None, platform)), platform.environ
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
            "apps created since February 2020 have a region id in their host name, and the "
            "environment does not contain it; if tasks do not arrive, set SERVICE_URL or "
            "TASK_HANDLER_HOST to the real address of the app"
        ),
    )


def _of_metadata(path: str, is_valid: Callable[[str], bool]) -> Source:
    def ask() -> Finding[str | None]:
        return (yield Ask(path, is_valid)).value

    return f"{path} of the metadata server", ask


def _part_of_metadata(path: str, pattern: re.Pattern[str]) -> Source:
    return f"{path} of the metadata server", partial(_last_part, pattern, path)


def _last_part(pattern: re.Pattern[str], path: str) -> Finding[str | None]:
    """Find the region in a value such as `projects/1/regions/europe-west1`."""
    answer = yield Ask(path, lambda text: pattern.fullmatch(text) is not None)
    match = pattern.fullmatch(answer.value or "")
    return match.group(1) if match else None


def _checked(found: Detected, is_valid: Callable[[str], bool], what: str) -> Detected:
    """Return the result of a detection, after a check of its value.

    Raises:
        ConfigurationError: the value is not valid.
    """
    if isinstance(found, Found) and not is_valid(found.value):
        raise ConfigurationError(f"{found.value!r} ({found.source}) is not {what}.")
    return found


def _variables(platform: Platform, *names: str) -> list[Source]:
    return [(f"{name} in the environment", platform.environ.get(name)) for name in names]


def _beside_emulator(platform: Platform, value: str) -> list[Source]:
    return [("the default with an emulator", value)] if platform.emulated else []


def _first(
    what: str, option_name: str, option: str | None, sources: Iterable[Source]
) -> Finding[Detected]:
    if option:
        return Found(option, f"{option_name} in OPTIONS")
    tried = [f"{option_name} in OPTIONS"]
    for source, given in sources:
        value = (yield from given()) if callable(given) else given
        match value:
            case Found(text, _, caution):
                return Found(text, source, caution)
            case str(text) if text:
                return Found(text, source)
        tried.append(source)
    return Missing(what, option_name, tuple(tried))
