"""Requests that make no sense are the caller's fault (4xx), never the emulator's (500)."""

import http.client
import socket

import pytest
from django_tasks_cloud_tasks.emulator.background import BackgroundEmulator

from tests.integration.refusals import QUEUE


def ask(
    running: BackgroundEmulator, method: str, path: str, body: bytes, headers: dict[str, str]
) -> int:
    connection = http.client.HTTPConnection(running.address, timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


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
def test_json_is_utf8_whatever_charset_its_sender_names(
    emulator: BackgroundEmulator,
    path: str,
    status: int,
    headers: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Creating a task has no field of that name.
    assert ask(emulator, "POST", path, b'{"advance": 1}', headers) == status
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "behind its head"])
@pytest.mark.parametrize("encoding", ["deflate", "gzip"])
@pytest.mark.parametrize("path", ["/emulator/clock", f"/v2/{QUEUE}/tasks"])
def test_a_body_that_is_not_packed_as_it_says_is_answered_whenever_it_comes(
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
    host, _, port = emulator.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
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
def test_json_with_names_and_numbers_that_no_message_has(
    emulator: BackgroundEmulator, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(emulator, "POST", f"/v2/{QUEUE}/tasks", body, {}) == 400
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("origin", ["http://[evil", "http://[::1", "//[", "http://[]x:1"])
def test_an_origin_that_is_none_is_refused(
    emulator: BackgroundEmulator, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(emulator, "POST", "/emulator/reset", b"", {"Origin": origin}) == 403
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("host", ["[", "localhost:99999", "localhost:x", "::1", "localhost:-1"])
def test_a_host_that_is_none_brings_no_configuration_down(
    emulator: BackgroundEmulator, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys are public under any name, but this is none."""
    path = "/.well-known/openid-configuration"
    assert 400 <= ask(emulator, "GET", path, b"", {"Host": host}) < 500
    assert [record for record in caplog.records if record.name != "asyncio"] == []
