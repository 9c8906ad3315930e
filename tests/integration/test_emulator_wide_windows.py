"""A gRPC client that announces an unlimited flow control window, and reads no responses."""

from base64 import b64encode
from pathlib import Path

from google.cloud import tasks_v2
from h2.connection import H2Connection
from h2.settings import SettingCodes

from tests.integration.emulator_program import emulator_program
from tests.integration.grpc_calls import framed, send_call
from tests.integration.http_calls import ask, connect, post
from tests.integration.refusals import QUEUE

WIDEST = 2**31 - 1
AT_FIRST = 65_535  # bytes of the initial window


def peak(process_id: int) -> int:
    """Return the peak memory use of a process, in bytes."""
    status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_answers_to_many_calls_in_one_packet_do_not_fill_the_memory() -> None:
    """The emulator must not rely on the window: the client may never read what it announces."""
    with emulator_program("--queue", QUEUE) as (running, address):
        assert post(address, f"/v2/{QUEUE}:pause", {}).status == 200
        body = b64encode(b"x" * 100_000).decode()
        for _ in range(20):
            task = {"task": {"httpRequest": {"url": "http://a.test/", "body": body}}}
            assert post(address, f"/v2/{QUEUE}/tasks", task).status == 200
        before = peak(running.pid)

        client = H2Connection()
        client.initiate_connection()
        client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WIDEST})
        client.increment_flow_control_window(WIDEST - AT_FIRST)
        request = tasks_v2.ListTasksRequest(parent=QUEUE, response_view=tasks_v2.Task.View.FULL)
        for number in range(90):
            send_call(client, 2 * number + 1, "ListTasks", framed(request))
        with connect(address) as raw:
            raw.sendall(client.data_to_send())
            # The first answer arrives after the emulator has read the whole packet.
            received = 0
            while received < 10_000:
                received += len(raw.recv(10_000))
            assert ask(address, "GET", "/emulator/clock").status == 200
            # The client has asked for 90 answers of two megabytes.
            assert peak(running.pid) - before < 80_000_000
