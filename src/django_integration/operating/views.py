"""The views that Cloud Scheduler calls: the relay, and the schedules."""

from django.http import HttpRequest, HttpResponse

from ...core.authorization import refusal_of_all
from ...core.outcomes import UnknownSchedule
from ...core.schedules import called_for
from ..executing.authentication import authenticate, read_body
from ..executing.flow import run
from ..executing.views import TaskView
from ..runtime import get_runtime
from .recurring import enqueue_due
from .relay import relay_for
from .site_schedules import site_schedules


class OperatingView(TaskView):
    """The base class of the views for Cloud Scheduler. They are authorized like an execution."""

    def granted(self, request: HttpRequest) -> set[str] | HttpResponse:
        """Authorize the caller.

        Returns:
            The aliases of the backends that the caller may use, or the response to a refused one.
        """
        caller = run(authenticate(request, read_body(request)))
        if refusal := refusal_of_all(caller.decisions):
            return self.respond(caller.refused(refusal))
        return {alias for alias, decision in caller.decisions.items() if decision.granted}


class RelayView(OperatingView):
    """Runs the relay."""

    def post(self, request: HttpRequest) -> HttpResponse:
        """Run the relay, and return a response with the number of tasks."""
        granted = self.granted(request)
        return granted if isinstance(granted, HttpResponse) else self.respond(relay_for(granted))


class ScheduleView(OperatingView):
    """Enqueues the tasks of the schedules that are due."""

    def post(self, request: HttpRequest, name: str = "") -> HttpResponse:
        """Enqueue the tasks that are due, of all schedules or of one.

        Args:
            request: the request.
            name: the name of the only schedule; empty for all.
        """
        granted = self.granted(request)
        if isinstance(granted, HttpResponse):
            return granted
        schedules = [
            one for one in site_schedules(granted) if not name or one.schedule.name == name
        ]
        if name and not schedules:
            return self.respond(UnknownSchedule(name))
        at = called_for(request.META, now=get_runtime().clock())
        return self.respond(enqueue_due(schedules, at=at))
