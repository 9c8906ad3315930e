"""The host names that HTTP/1.1 requests to the emulator may use.

A web page can make its own host name resolve to this machine (DNS rebinding). The browser then
treats requests to the emulator as requests to the origin of the page. So the emulator accepts only
names that no web page can have.
"""

from collections.abc import Collection
from ipaddress import ip_address

import attrs

_HIGHEST_PORT = 65_535


@attrs.frozen
class AllowedHosts:
    """The hosts that are allowed in the `Host` header of a request.

    Attributes:
        listens_on: the address that the emulator listens on.
        others: additional names that clients use, for example the name of a container.
    """

    listens_on: str = "localhost"
    others: Collection[str] = ()

    def allows(self, header: str) -> bool:
        """Return whether the host in a `Host` header is allowed."""
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
        """Return the error message for a request with another host."""
        name = _host_of(header)[:100]
        return (
            f"The emulator does not answer requests with the host name {name!r}. To allow this "
            f"name, start the emulator with --allowed-host {name}."
        )

    @property
    def _listens_everywhere(self) -> bool:
        """Whether the emulator listens on all addresses.

        Then all IP addresses are allowed. DNS rebinding needs a name, not an address.
        """
        try:
            return ip_address(self.listens_on).is_unspecified
        except ValueError:
            return False


def _host_of(header: str) -> str:
    """Return the host in HOST, HOST:PORT or [ADDRESS]:PORT, in lower case."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, separator, port = text.rpartition(":")
    is_port = separator and port.isdecimal() and int(port) <= _HIGHEST_PORT
    host = host if is_port else text
    return host.rstrip(".")
