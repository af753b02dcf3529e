"""Who is asking: the address of a client, by the word of proxies that are trusted and of nobody else."""

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN = "unknown"
_MOST_HOPS = 20


def address_of(scope: Scope, trusted: Sequence[Network]) -> str:
    """The address that a request comes from; `unknown` where the transport has none (a Unix socket).

    trusted: proxies whose X-Forwarded-For counts. It is read from its end, the only part that a client cannot
    have written, up to the first address that is no trusted proxy.
    """
    peer = scope.get("client")
    address = _parsed(peer[0]) if peer else None
    if address is None:
        return UNKNOWN
    if not trusted or not _is_in(address, trusted):
        return str(address)
    hops = [hop for line in Headers(scope=scope).getlist("x-forwarded-for") for hop in line.split(",")]
    for hop in reversed(hops[-_MOST_HOPS:]):
        found = _parsed(hop.strip())
        if found is None:  # what a proxy of ours writes is an address
            break
        address = found
        if not _is_in(address, trusted):
            break
    return str(address)


def bucket_of(address: str) -> str:
    """What is counted as one client: an address of IPv4, or the /64 that a user of IPv6 has to himself."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def _is_in(address: _Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _parsed(text: str) -> _Address | None:
    """An address, with a port or a zone or without; IPv4 in IPv6's clothes as what it is."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
