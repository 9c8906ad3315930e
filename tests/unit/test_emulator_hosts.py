"""The host names that requests to the emulator may use."""

import pytest
from django_tasks_cloud_tasks.emulator.ways_in.hosts import AllowedHosts

EVERYWHERE = "::"


@pytest.mark.parametrize(
    "header",
    [
        *("localhost", "localhost:8123", "LOCALHOST:8123", "localhost."),
        *("127.0.0.1", "127.0.0.1:8123", "127.1.2.3:1", "[::1]", "[::1]:8123", "shop.localhost:1"),
    ],
)
def test_loopback_names_are_allowed_for_any_address_of_the_emulator(header: str) -> None:
    for listens_on in ("localhost", EVERYWHERE, "10.0.0.7"):
        assert AllowedHosts(listens_on).allows(header)


@pytest.mark.parametrize(
    "header",
    [
        *("evil.example", "evil.example:8123", "localhost.evil.example", "evillocalhost", ""),
        *("127.0.0.1.evil.example:8123", "10.0.0.7:8123", "[2001:db8::1]:8123", "localhost@evil"),
    ],
)
def test_other_host_names_are_not_allowed(header: str) -> None:
    assert not AllowedHosts().allows(header)


def test_the_address_of_the_emulator_and_configured_names_are_allowed() -> None:
    assert AllowedHosts("10.0.0.7").allows("10.0.0.7:8123")
    assert not AllowedHosts("10.0.0.7").allows("10.0.0.8:8123")
    everywhere = AllowedHosts(EVERYWHERE, ["emulator"])
    assert everywhere.allows("10.0.0.7:8123"), "nobody can make a bare address their own"
    assert everywhere.allows("Emulator:8123")
    assert not everywhere.allows("evil.example:8123")
