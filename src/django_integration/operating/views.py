"""The view that has the relay run: what Cloud Scheduler calls."""

from django.http import HttpRequest, HttpResponse

from ...core.authorization import refusal_of_all
from ..executing.authentication import authenticate, read_body
from ..executing.flow import run
from ..executing.views import TaskView
from .relay import relay_for


class RelayView(TaskView):
    """Sends what waits in the outbox; for Cloud Scheduler, authorized like an execution."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Authorize, relay, tell how many."""
        caller = run(authenticate(request, read_body(request)))
        if refusal := refusal_of_all(caller.decisions):
            return self.respond(caller.refused(refusal))
        granted = {alias for alias, decision in caller.decisions.items() if decision.granted}
        return self.respond(relay_for(granted))
