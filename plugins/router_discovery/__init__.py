"""Discovery: who the servers of a pool are, from a file, from DNS, or from whoever answers an HTTP request.

These import from `router` only. Merging with the configuration's own endpoints, keeping the last good set and draining
what is gone are the core's.
"""

from router import Register, hookimpl
from router_discovery.dns import DnsOptions, DnsSource
from router_discovery.file import FileOptions, FileSource
from router_discovery.http import HttpOptions, HttpSource

__all__ = ["register_discovery"]


@hookimpl
def register_discovery(register: Register) -> None:
    register("file", FileSource, FileOptions)
    register("dns", DnsSource, DnsOptions)
    register("http", HttpSource, HttpOptions)
