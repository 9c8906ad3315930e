"""Under which names the emulator answers over HTTP/1.1, which is what browsers speak to it.

A web page can have its own name point at this machine (DNS rebinding), and then send requests that
name the page's host, and come from its own origin as far as the browser can tell. So only names
that nobody else can own are answered.
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
        others: further names by which it is reached, such as that of a container.
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
        """What to say to a request that names another host."""
        name = _host_of(header)[:100]
        return f"The emulator does not answer as {name!r}; --allowed-host {name} would have it."

    @property
    def _listens_everywhere(self) -> bool:
        """Whether any address of this machine reaches it: a page cannot own a bare address."""
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
