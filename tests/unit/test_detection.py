"""Detection of the platform and of the settings that it provides."""

from collections.abc import Callable, Mapping

import attrs
import pytest
from django_tasks_cloud_tasks.adapters.metadata import answer_finding
from django_tasks_cloud_tasks.core.detection import (
    Detected,
    Finding,
    Found,
    Missing,
    Platform,
    find_handler_host,
    find_location,
    find_project,
    find_service_account,
    is_app_engine,
    is_cloud_run,
)
from django_tasks_cloud_tasks.core.errors import ConfigurationError

type Find = Callable[[str | None, Platform], Finding[Detected]]


@attrs.define
class Metadata:
    """A metadata server with these values. `asked` lists the requested paths."""

    values: Mapping[str, str] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)

    is_absent = False

    def get(self, path: str, is_valid: Callable[[str], bool] = bool) -> str | None:
        self.asked.append(path)
        value = self.values.get(path)
        return value if value is not None and is_valid(value) else None


CLOUD_RUN = {
    "K_SERVICE": "shop",
    "K_REVISION": "shop-0001",
    "K_CONFIGURATION": "shop",
    "PORT": "8080",
}
ON_CLOUD_RUN = Metadata(
    {
        "project/project-id": "my-shop",
        "project/numeric-project-id": "123456",
        "instance/region": "projects/123456/regions/europe-west1",
        "instance/zone": "projects/123456/zones/europe-west1-1",
        "instance/service-accounts/default/email": "run@my-shop.iam.gserviceaccount.com",
    }
)
APP_ENGINE = {
    "GAE_APPLICATION": "e~my-shop",
    "GAE_SERVICE": "web",
    "GAE_VERSION": "v1",
}
GKE = Metadata(
    {
        "project/project-id": "my-shop",
        "instance/zone": "projects/123456/zones/us-central1-c",
        "instance/service-accounts/default/email": "gke@my-shop.iam.gserviceaccount.com",
    }
)


ENV, METADATA = "in the environment", "of the metadata server"


@attrs.frozen
class Place:
    """A place where an app runs: the facts about it, and its metadata server."""

    platform: Platform
    metadata: Metadata

    def find(self, find: Find, option: str | None = None) -> Detected:
        return answer_finding(find(option, self.platform), self.metadata)


def at(environ: Mapping[str, str], metadata: Metadata, *, emulated: bool = False) -> Place:
    return Place(Platform(environ=environ, emulated=emulated), metadata)


def test_a_platform_is_detected_by_its_variables() -> None:
    assert is_cloud_run(CLOUD_RUN)
    assert not is_cloud_run({"PORT": "8080"})
    assert not is_cloud_run({"K_SERVICE": "knative-local"})
    assert is_app_engine(APP_ENGINE)
    assert not is_app_engine(CLOUD_RUN)


@pytest.mark.parametrize(
    ("option", "environ", "found"),
    [
        ("mine", {"GOOGLE_CLOUD_PROJECT": "x"}, Found("mine", "CLOUD_TASKS_PROJECT in OPTIONS")),
        (
            None,
            {"GOOGLE_CLOUD_PROJECT": "x"},
            Found("x", "GOOGLE_CLOUD_PROJECT in the environment"),
        ),
        (None, {"GCLOUD_PROJECT": "x"}, Found("x", "GCLOUD_PROJECT in the environment")),
        (None, APP_ENGINE, Found("my-shop", "GAE_APPLICATION in the environment")),
        (
            None,
            {"GOOGLE_CLOUD_PROJECT": ""},
            Found("my-shop", "project/project-id of the metadata server"),
        ),
    ],
)
def test_the_project_is_found_in_its_sources(
    option: str | None, environ: dict[str, str], found: Detected
) -> None:
    assert at(environ, GKE).find(find_project, option) == found


@pytest.mark.parametrize(
    ("environ", "metadata", "location"),
    [
        ({"CLOUD_TASKS_LOCATION": "asia-east1"}, ON_CLOUD_RUN, "asia-east1"),
        ({"CLOUD_RUN_REGION": "asia-east1"}, ON_CLOUD_RUN, "asia-east1"),
        (CLOUD_RUN, ON_CLOUD_RUN, "europe-west1"),
        ({}, GKE, "us-central1"),
        (
            {},
            Metadata({"instance/zone": "projects/1/zones/northamerica-northeast1-b"}),
            "northamerica-northeast1",
        ),
    ],
)
def test_the_location_is_found_in_its_sources(
    environ: dict[str, str], metadata: Metadata, location: str
) -> None:
    found = at(environ, metadata).find(find_location)
    assert isinstance(found, Found)
    assert found.value == location


@pytest.mark.parametrize("zone", ["projects/1/zones/us16", "us-central1-c", "rubbish", ""])
def test_an_invalid_zone_gives_no_location(zone: str) -> None:
    assert isinstance(at({}, Metadata({"instance/zone": zone})).find(find_location), Missing)


def test_the_service_account_is_found_on_the_metadata_server() -> None:
    found = at({}, GKE).find(find_service_account)
    assert isinstance(found, Found)
    assert found.value == "gke@my-shop.iam.gserviceaccount.com"
    no_email = Metadata({"instance/service-accounts/default/email": "default"})
    assert isinstance(at({}, no_email).find(find_service_account), Missing)


def test_the_url_of_a_cloud_run_service_has_the_number_of_its_project() -> None:
    found = at(CLOUD_RUN, ON_CLOUD_RUN).find(find_handler_host)
    assert found == Found(
        "https://shop-123456.europe-west1.run.app", "the Cloud Run service's own URL"
    )


def test_a_cloud_run_service_with_a_name_too_long_for_dns_has_no_url() -> None:
    longest = "s" * (63 - len("-123456"))
    environ = CLOUD_RUN | {"K_SERVICE": longest}
    assert isinstance(at(environ, ON_CLOUD_RUN).find(find_handler_host), Found)
    environ = CLOUD_RUN | {"K_SERVICE": longest + "s"}
    assert isinstance(at(environ, ON_CLOUD_RUN).find(find_handler_host), Missing)


def test_the_guessed_url_of_an_app_engine_version_comes_with_a_caution() -> None:
    found = at(APP_ENGINE, Metadata()).find(find_handler_host)
    assert isinstance(found, Found)
    assert found.value == "https://v1-dot-web-dot-my-shop.appspot.com"
    assert found.caution is not None
    assert "SERVICE_URL" in found.caution


@pytest.mark.parametrize(
    "environ",
    [
        APP_ENGINE | {"GAE_APPLICATION": "s~example.com:my-shop"},
        APP_ENGINE | {"GAE_VERSION": "v" * 60},
        {"GAE_APPLICATION": "e~my-shop"},
    ],
)
def test_an_app_engine_url_that_cannot_be_guessed_is_missing(environ: dict[str, str]) -> None:
    assert isinstance(at(environ, Metadata()).find(find_handler_host), Missing)


@pytest.mark.parametrize("name", ["TASK_HANDLER_HOST", "SERVICE_URL"])
def test_an_address_in_the_environment_comes_before_a_detected_one(name: str) -> None:
    found = at(CLOUD_RUN | {name: "https://a.b/"}, ON_CLOUD_RUN).find(find_handler_host)
    assert found == Found("https://a.b", f"{name} in the environment")


def test_the_error_for_an_invalid_address_names_its_source() -> None:
    with pytest.raises(ConfigurationError, match=r"'localhost:8000' \(SERVICE_URL in the env"):
        at({"SERVICE_URL": "localhost:8000"}, Metadata()).find(find_handler_host)


def test_values_that_are_set_are_not_looked_up() -> None:
    metadata = Metadata()
    at({}, metadata).find(find_project, "p")
    at({"CLOUD_TASKS_LOCATION": "l"}, metadata).find(find_location)
    at(CLOUD_RUN, metadata).find(find_handler_host, "https://a.b")
    at({}, metadata).find(find_service_account, "tasks@p")
    assert metadata.asked == []


def test_only_the_account_is_missing_with_an_emulator() -> None:
    platform = at({}, Metadata(), emulated=True)
    found = [platform.find(find) for find in (find_project, find_location, find_handler_host)]
    assert [detected.value for detected in found if isinstance(detected, Found)] == [
        "local-project",
        "local",
        "http://localhost:8000",
    ]
    assert isinstance(platform.find(find_service_account), Missing)
    given = at({"GOOGLE_CLOUD_PROJECT": "mine"}, Metadata(), emulated=True)
    assert given.find(find_project) == Found("mine", f"GOOGLE_CLOUD_PROJECT {ENV}")


def test_the_error_for_a_missing_project_names_every_source() -> None:
    missing = at({}, Metadata()).find(find_project)
    assert isinstance(missing, Missing)
    assert str(missing.error()) == (
        "No Google Cloud project found. Set CLOUD_TASKS_PROJECT in the OPTIONS of the backend; on "
        "a laptop, you can start the emulator and set CLOUD_TASKS_EMULATOR_HOST instead. "
        "Tried: CLOUD_TASKS_PROJECT in OPTIONS, GOOGLE_CLOUD_PROJECT in the environment, "
        "GCLOUD_PROJECT in the environment, GCP_PROJECT in the environment, "
        "GAE_APPLICATION in the environment, project/project-id of the metadata server."
    )


@pytest.mark.parametrize(
    ("find", "variable", "value", "wanted"),
    [
        (find_project, "GOOGLE_CLOUD_PROJECT", "my shop", "not a project id"),
        (find_project, "GOOGLE_CLOUD_PROJECT", "projects/my-shop", "not a project id"),
        (find_location, "CLOUD_TASKS_LOCATION", "europe west1", "not a location"),
        (find_service_account, "OIDC_SERVICE_ACCOUNT_EMAIL", "default", "not .*e-mail address"),
        (find_service_account, "OIDC_SERVICE_ACCOUNT_EMAIL", "a@b\nc", "not .*e-mail address"),
    ],
)
def test_the_error_for_an_invalid_variable_names_the_variable(
    find: Find, variable: str, value: str, wanted: str
) -> None:
    platform = at({variable: value}, Metadata())
    with pytest.raises(ConfigurationError, match=f"{variable} in the environment.* is {wanted}"):
        platform.find(find)


def test_a_missing_account_on_cloud_run_is_a_temporary_error() -> None:
    silent = Metadata({"instance/service-accounts/default/email": "default"})
    with pytest.raises(ConfigurationError, match="always have one"):
        at(CLOUD_RUN, silent).find(find_service_account)
    assert isinstance(at({}, silent).find(find_service_account), Missing)
