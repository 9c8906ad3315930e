"""The host names under which the emulator answers HTTP/1.1 requests, which browsers can send.

A web page can make its own host name resolve to this machine (DNS rebinding). The browser then
takes requests to the emulator for requests to the page's own origin. So the emulator accepts only
names that nobody else can own.
"""

from collections.abc import Collection
from ipaddress import ip_address

import attrs

_HIGHEST_PORT = 65_535


@attrs.frozen
class AllowedHosts:
    """The hosts that requests may name.

    Attributes:
        listens_on: the address that the emulator listens on.
        others: more names that clients use, such as that of a container.
    """

    listens_on: str = "localhost"
    others: Collection[str] = ()

    def allows(self, header: str) -> bool:
        """Whether a `Host` header names this emulator."""
        host = _host_of(header)
        if host in {self.listens_on.lower(), *(name.lower() for name in self.others)}:
            return True
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or self._listens_everywhere

    def refusal(self, header: str) -> str:
        """The error for a request that names another host."""
        name = _host_of(header)[:100]
        return (
            f"The emulator does not answer under the name {name!r}. To allow this name, start the "
            f"emulator with --allowed-host {name}."
        )

    @property
    def _listens_everywhere(self) -> bool:
        """Whether it listens on all addresses. A page cannot own a bare address."""
        try:
            return ip_address(self.listens_on).is_unspecified
        except ValueError:
            return False


def _host_of(header: str) -> str:
    """The host in HOST, HOST:PORT or [ADDRESS]:PORT, in lower case."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, separator, port = text.rpartition(":")
    is_port = separator and port.isdecimal() and int(port) <= _HIGHEST_PORT
    host = host if is_port else text
    return host.rstrip(".")
