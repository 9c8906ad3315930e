"""A gRPC client that offers room without end for answers, and reads none of them."""

import http.client
import json
import socket
from base64 import b64encode
from pathlib import Path

from google.cloud import tasks_v2
from h2.connection import H2Connection
from h2.settings import SettingCodes

from tests.integration.refusals import QUEUE
from tests.integration.test_emulator_program import emulator as program
from tests.integration.test_emulator_under_abuse import call, framed

WIDEST = 2**31 - 1
AT_FIRST = 65_535  # bytes of a window that nobody has widened


def peak(process_id: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_one_packet_of_calls_does_not_pile_up_answers() -> None:
    """The window is the client's word for what it will read; what counts is what it reads."""
    with program("--queue", QUEUE) as (running, address):
        connection = http.client.HTTPConnection(address, timeout=20)

        def post(path: str, document: object) -> None:
            connection.request("POST", f"/v2/{path}", json.dumps(document))
            response = connection.getresponse()
            response.read()
            assert response.status == 200

        post(f"{QUEUE}:pause", {})
        body = b64encode(b"x" * 100_000).decode()
        for _ in range(20):
            post(
                f"{QUEUE}/tasks", {"task": {"httpRequest": {"url": "http://a.test/", "body": body}}}
            )
        before = peak(running.pid)

        client = H2Connection()
        client.initiate_connection()
        client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WIDEST})
        client.increment_flow_control_window(WIDEST - AT_FIRST)
        request = tasks_v2.ListTasksRequest(parent=QUEUE, response_view=tasks_v2.Task.View.FULL)
        for number in range(90):
            call(client, 2 * number + 1, "ListTasks", framed(request))
        with socket.create_connection((address.split(":")[0], int(address.split(":")[1]))) as raw:
            raw.settimeout(20)
            raw.sendall(client.data_to_send())
            # Answers come only once the whole packet was taken.
            received = 0
            while received < 10_000:
                received += len(raw.recv(10_000))
            connection.request("GET", "/emulator/clock")
            assert connection.getresponse().status == 200
            # 90 answers of two megabytes were asked for.
            assert peak(running.pid) - before < 80_000_000
        connection.close()
