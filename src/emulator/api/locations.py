"""The locations of the service. Any location name is valid. A few locations are always listed."""

import google.cloud.location.locations_pb2 as locations_pb2  # noqa: PLR0402 - a namespace package

from ..errors import ApiError, Status
from ..messages.wire import Message, location_name
from ..state.state_machine import Service
from .method import Method

# A few locations of the service.
_LISTED = (
    *("asia-east1", "asia-northeast1", "asia-south1", "australia-southeast1"),
    *("europe-west1", "europe-west3", "southamerica-east1", "us-central1", "us-east1", "us-west1"),
)


class Locations:
    """Handles the methods for locations."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.methods = {
            "/google.cloud.location.Locations/ListLocations": Method(
                locations_pb2.ListLocationsRequest, self._list
            ),
            "/google.cloud.location.Locations/GetLocation": Method(
                locations_pb2.GetLocationRequest, self._get
            ),
        }

    def _list(self, request: Message) -> Message:
        used = {queue.name.split("/")[3] for queue in self._service.queues()}
        return locations_pb2.ListLocationsResponse(
            locations=[_location(request.name, name) for name in sorted({*_LISTED, *used})]
        )

    def _get(self, request: Message) -> Message:
        project, _, location = location_name(request.name).rpartition("/locations/")
        return _location(project, location)


def _location(project: str, location: str) -> Message:
    if not project.startswith("projects/"):
        raise ApiError(Status.INVALID_ARGUMENT, "Locations are listed for projects/<PROJECT_ID>.")
    return locations_pb2.Location(
        name=f"{project}/locations/{location}",
        location_id=location,
        labels={"cloud.googleapis.com/region": location},
    )
