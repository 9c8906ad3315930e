"""A bare gRPC server: answers CreateTask with bytes that were ready before. Prints its address."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from google.cloud.tasks_v2.types import Task

_ANSWER = Task(name="projects/p/locations/l/queues/q/tasks/t").__class__.serialize(
    Task(name="projects/project/locations/europe-west1/queues/default/tasks/" + "0" * 36)
)


class _Echo(grpc.GenericRpcHandler):
    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: _ANSWER)


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()
