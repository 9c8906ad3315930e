"""The view that runs the relay. Cloud Scheduler calls it."""

from django.http import HttpRequest, HttpResponse

from ...core.authorization import refusal_of_all
from ..executing.authentication import authenticate, read_body
from ..executing.flow import run
from ..executing.views import TaskView
from .relay import relay_for


class RelayView(TaskView):
    """Runs the relay for Cloud Scheduler, with the same authorization as an execution."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Authorize the caller, run the relay, and return a response with the number of tasks."""
        caller = run(authenticate(request, read_body(request)))
        if refusal := refusal_of_all(caller.decisions):
            return self.respond(caller.refused(refusal))
        granted = {alias for alias, decision in caller.decisions.items() if decision.granted}
        return self.respond(relay_for(granted))
