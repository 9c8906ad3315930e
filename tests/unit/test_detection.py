"""Where the app runs."""

from collections.abc import Callable, Mapping

import attrs
import pytest
from django_tasks_cloud_tasks.core.detection import (
    Detected,
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


@attrs.define
class Metadata:
    """A metadata server that knows these values; `asked` is what it was asked for."""

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


def at(environ: Mapping[str, str], metadata: Metadata, *, emulated: bool = False) -> Platform:
    return Platform(environ=environ, metadata=metadata, emulated=emulated)


def test_platforms_are_told_by_their_variables() -> None:
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
def test_the_project(option: str | None, environ: dict[str, str], found: Detected) -> None:
    assert find_project(option, at(environ, GKE)) == found


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
def test_the_location(environ: dict[str, str], metadata: Metadata, location: str) -> None:
    found = find_location(None, at(environ, metadata))
    assert isinstance(found, Found)
    assert found.value == location


@pytest.mark.parametrize("zone", ["projects/1/zones/us16", "us-central1-c", "rubbish", ""])
def test_what_is_no_zone_is_no_location(zone: str) -> None:
    assert isinstance(find_location(None, at({}, Metadata({"instance/zone": zone}))), Missing)


def test_the_service_account() -> None:
    found = find_service_account(None, at({}, GKE))
    assert isinstance(found, Found)
    assert found.value == "gke@my-shop.iam.gserviceaccount.com"
    no_email = Metadata({"instance/service-accounts/default/email": "default"})
    assert isinstance(find_service_account(None, at({}, no_email)), Missing)


def test_a_cloud_run_service_has_a_url_with_its_projects_number() -> None:
    found = find_handler_host(None, at(CLOUD_RUN, ON_CLOUD_RUN))
    assert found == Found(
        "https://shop-123456.europe-west1.run.app", "the Cloud Run service's own URL"
    )


def test_a_service_whose_label_is_too_long_for_dns_has_no_such_url() -> None:
    longest = "s" * (63 - len("-123456"))
    environ = CLOUD_RUN | {"K_SERVICE": longest}
    assert isinstance(find_handler_host(None, at(environ, ON_CLOUD_RUN)), Found)
    environ = CLOUD_RUN | {"K_SERVICE": longest + "s"}
    assert isinstance(find_handler_host(None, at(environ, ON_CLOUD_RUN)), Missing)


def test_the_address_of_an_app_engine_version_is_a_guess_and_says_so() -> None:
    found = find_handler_host(None, at(APP_ENGINE, Metadata()))
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
def test_no_guess_where_there_is_no_ground_for_one(environ: dict[str, str]) -> None:
    assert isinstance(find_handler_host(None, at(environ, Metadata())), Missing)


@pytest.mark.parametrize("name", ["TASK_HANDLER_HOST", "SERVICE_URL"])
def test_a_given_address_is_taken_first(name: str) -> None:
    found = find_handler_host(None, at(CLOUD_RUN | {name: "https://a.b/"}, ON_CLOUD_RUN))
    assert found == Found("https://a.b", f"{name} in the environment")


def test_an_address_that_is_none_is_told_with_its_source() -> None:
    with pytest.raises(ConfigurationError, match=r"'localhost:8000' \(SERVICE_URL in the env"):
        find_handler_host(None, at({"SERVICE_URL": "localhost:8000"}, Metadata()))


def test_what_is_given_is_not_looked_up() -> None:
    metadata = Metadata()
    find_project("p", at({}, metadata))
    find_location(None, at({"CLOUD_TASKS_LOCATION": "l"}, metadata))
    find_handler_host("https://a.b", at(CLOUD_RUN, metadata))
    find_service_account("tasks@p", at({}, metadata))
    assert metadata.asked == []


def test_beside_an_emulator_nothing_is_missing_but_an_account() -> None:
    platform = at({}, Metadata(), emulated=True)
    found = [find(None, platform) for find in (find_project, find_location, find_handler_host)]
    assert [detected.value for detected in found if isinstance(detected, Found)] == [
        "local-project",
        "local",
        "http://localhost:8000",
    ]
    assert isinstance(find_service_account(None, platform), Missing)
    given = at({"GOOGLE_CLOUD_PROJECT": "mine"}, Metadata(), emulated=True)
    assert find_project(None, given) == Found("mine", f"GOOGLE_CLOUD_PROJECT {ENV}")


def test_an_error_names_every_source_that_was_tried() -> None:
    missing = find_project(None, at({}, Metadata()))
    assert isinstance(missing, Missing)
    assert str(missing.error()) == (
        "No Google Cloud project found. Set CLOUD_TASKS_PROJECT in the OPTIONS of the backend; on "
        "a laptop start the emulator and set CLOUD_TASKS_EMULATOR_HOST, and nothing is missing. "
        "Tried: CLOUD_TASKS_PROJECT in OPTIONS, GOOGLE_CLOUD_PROJECT in the environment, "
        "GCLOUD_PROJECT in the environment, GCP_PROJECT in the environment, "
        "GAE_APPLICATION in the environment, project/project-id of the metadata server."
    )


@pytest.mark.parametrize(
    ("find", "variable", "value", "wanted"),
    [
        (find_project, "GOOGLE_CLOUD_PROJECT", "my shop", "no project id"),
        (find_project, "GOOGLE_CLOUD_PROJECT", "projects/my-shop", "no project id"),
        (find_location, "CLOUD_TASKS_LOCATION", "europe west1", "no location"),
        (find_service_account, "OIDC_SERVICE_ACCOUNT_EMAIL", "default", "no e-mail"),
        (find_service_account, "OIDC_SERVICE_ACCOUNT_EMAIL", "a@b\nc", "no e-mail"),
    ],
)
def test_what_the_environment_says_wrongly_is_told(
    find: Callable[[str | None, Platform], Detected], variable: str, value: str, wanted: str
) -> None:
    platform = Platform(environ={variable: value}, metadata=Metadata())
    with pytest.raises(ConfigurationError, match=f"{variable} in the environment.* is {wanted}"):
        find(None, platform)


def test_cloud_run_without_an_account_is_a_moment_of_the_metadata_server() -> None:
    silent = Metadata({"instance/service-accounts/default/email": "default"})
    with pytest.raises(ConfigurationError, match="always have one"):
        find_service_account(None, Platform(environ=CLOUD_RUN, metadata=silent))
    assert isinstance(find_service_account(None, Platform(environ={}, metadata=silent)), Missing)
