"""Customer-managed encryption keys (CMEK) of locations. They are stored, but have no effect."""

from google.cloud.tasks_v2 import types

from ..messages.wire import Message, location_name
from .method import cloud_tasks_methods


class CmekConfigs:
    """Handles the methods for CMEK configurations."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self.methods = cloud_tasks_methods(
            {"GetCmekConfig": self._get, "UpdateCmekConfig": self._update}
        )

    def reset(self) -> None:
        """Remove all keys."""
        self._keys.clear()

    def _get(self, request: Message) -> Message:
        location_name(request.name.removesuffix("/cmekConfig"))
        return types.CmekConfig.pb()(name=request.name, kms_key=self._keys.get(request.name, ""))

    def _update(self, request: Message) -> Message:
        config = request.cmek_config
        location_name(config.name.removesuffix("/cmekConfig"))
        self._keys[config.name] = config.kms_key
        return config
