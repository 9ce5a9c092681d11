"""From the body of an HTTP answer to endpoints: a list of URLs or tables, or what Consul says of a service's health.

Nothing here asks; the answer comes from elsewhere and is checked like a stranger's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from router import EndpointSpec
from router_discovery.formats import decode_json
from router_discovery.specs import bounded, convert, read_endpoint, read_set, repeated
from router_discovery.trouble import DiscoveryError, shown

__all__ = ["read_answer"]


class _Weights(msgspec.Struct, frozen=True, rename="pascal"):
    passing: int = 1


class _Service(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = msgspec.field(name="ID", default="")
    address: str = ""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 0
    weights: _Weights | None = None
    meta: dict[str, str] | None = None


class _Node(msgspec.Struct, frozen=True, rename="pascal"):
    node: str = ""
    address: str = ""


class _Entry(msgspec.Struct, frozen=True, rename="pascal"):
    """One instance of a service; Consul's answers have many more keys."""

    service: _Service
    node: _Node = _Node()


def read_answer(body: bytes, scheme: Literal["http", "https"]) -> list[EndpointSpec]:
    """The endpoints that an answer names.

    Args:
        scheme: of those that come from Consul.

    Raises:
        DiscoveryError: that begins with the place within the answer.
    """
    data = decode_json(body)
    if isinstance(data, list) and data and all(isinstance(item, dict) and "Service" in item for item in data):
        return _consul(data, scheme)
    return read_set(data, remote=True)


def _consul(data: list[Any], scheme: str) -> list[EndpointSpec]:
    found = []
    for index, item in enumerate(bounded(data)):
        try:
            found.append(_instance(convert(item, _Entry), scheme))
        except DiscoveryError as error:
            raise error.within(f"[{index}]") from None
    if twice := repeated(found):
        one, other = twice
        raise DiscoveryError(f'[{other}] is the same instance as [{one}]: "{shown(found[one].identity)}"')
    return found


def _instance(entry: _Entry, scheme: str) -> EndpointSpec:
    service, node = entry.service, entry.node
    host = service.address or node.address
    if not host or not service.port:
        raise DiscoveryError("the service has no address" if not host else "the service has no port")
    weight = service.weights.passing if service.weights else 1
    return read_endpoint(
        {
            "url": f"{scheme}://{f'[{host}]' if ':' in host else host}:{service.port}",
            # An ID is unique within its node only; by default it is the service's name.
            "id": "/".join(filter(None, (node.node, service.id))),
            "weight": min(weight, 65535),
            "metadata": service.meta or {},
        },
        remote=True,
    )
