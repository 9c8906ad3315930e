"""Malformed requests are answered with an error of the caller (4xx), never with a 500."""

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator

from tests.integration.http_calls import ask, connect
from tests.integration.refusals import QUEUE


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=nonsense"},
        {"Content-Type": "application/json; charset=hex"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("path", "status"), [("/emulator/clock", 200), (f"/v2/{QUEUE}/tasks", 400)]
)
def test_json_is_read_as_utf8_even_if_the_request_names_another_charset(
    emulator: BackgroundEmulator,
    path: str,
    status: int,
    headers: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The method that creates tasks has no field with this name.
    assert ask(emulator.address, "POST", path, b'{"advance": 1}', **headers).status == status
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "behind its head"])
@pytest.mark.parametrize("encoding", ["deflate", "gzip"])
@pytest.mark.parametrize("path", ["/emulator/clock", f"/v2/{QUEUE}/tasks"])
def test_a_body_that_is_not_compressed_as_declared_is_refused(
    emulator: BackgroundEmulator,
    path: str,
    encoding: str,
    apart: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = b'{"advance": 1}'
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: {encoding}\r\n"
        f"Content-Length: {len(body)}\r\n{'Expect: 100-continue' if apart else 'X: y'}\r\n\r\n"
    ).encode()
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    with connect(emulator.address) as raw:
        answer = raw.makefile("rb")
        if apart:
            raw.sendall(head)
            assert answer.read(len(go_on)) == go_on
            raw.sendall(body)
        else:
            raw.sendall(head + body)
        status = int(answer.readline().split()[1])
        answer.close()
    assert 400 <= status < 500
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"\\ud800": 1}',
        b'{"task": {"\\ud800": 1}}',
        b'{"task": {"httpRequest": {"headers": {"\\ud800": "x"}}}}',
        b'{"task": {"httpRequest": {"httpMethod": 1e999}}}',
        b'{"responseView": -1e999}',
        b'{"responseView": "\\ud800"}',
        b'{"task": {"dispatchDeadline": {"seconds": 1e999}}}',
    ],
)
def test_json_with_invalid_names_or_numbers_is_refused(
    emulator: BackgroundEmulator, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(emulator.address, "POST", f"/v2/{QUEUE}/tasks", body).status == 400
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("origin", ["http://[evil", "http://[::1", "//[", "http://[]x:1"])
def test_an_invalid_origin_is_refused(
    emulator: BackgroundEmulator, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(emulator.address, "POST", "/emulator/reset", Origin=origin).status == 403
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("host", ["[", "localhost:99999", "localhost:x", "::1", "localhost:-1"])
def test_an_invalid_host_is_refused_by_the_openid_configuration(
    emulator: BackgroundEmulator, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The public keys are served under any host name, but these are not host names."""
    path = "/.well-known/openid-configuration"
    assert 400 <= ask(emulator.address, "GET", path, Host=host).status < 500
    assert [record for record in caplog.records if record.name != "asyncio"] == []
