"""Which addresses an HTTP task may connect to: none of the special networks, unless the operator says so.

Pure but for `resolve_name`. The list is our own, after the special-purpose address registries of IANA (RFC 6890): what
`ipaddress` of Python 3.11 calls global includes multicast, 6to4 and NAT64 addresses, and those lead inwards.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
"""From a host name and a port to its addresses as text. Raises `OSError` where the name leads nowhere."""

SPECIAL: tuple[Network, ...] = tuple(
    ip_network(written)
    for written in (
        "0.0.0.0/8",  # this host: Linux connects to itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent, a public address that is only reached from within
        "169.254.0.0/16",  # link-local, the clouds' metadata services among them
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        # Everything in IPv6 that is not global unicast (2000::/3): loopback, IPv4-mapped, NAT64 (64:ff9b::/96 and
        # 64:ff9b:1::/48), unique local (fc00::/7), link-local, site-local, multicast, and what is not assigned.
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


class Refused(Exception):
    """An address that may not be connected to, and the special network that it is in."""

    def __init__(self, address: str, network: str) -> None:
        super().__init__(f"{address} is in the special network {network}")
        self.address = address
        self.network = network


def check_address(written: str, allow: Iterable[Network]) -> None:
    """Raise `Refused` for an address in a special network that is not within `allow`.

    An IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64) is checked as well as its wrapping: who allows the
    NAT64 prefix has not allowed the metadata service behind it. A mapped address is the IPv4 one, to the kernel too.
    """
    allowed = list(allow)
    for address in _faces(ip_address(written.partition("%")[0])):
        if _network_of(address, allowed) is None:
            network = _network_of(address, SPECIAL)
            if network is not None:
                raise Refused(written, str(network))


def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order, each once. Numbers in any notation are addresses already."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def resolve_within(
    resolve: Resolve, host: str, port: int, wait: Callable[[threading.Event], None]
) -> Sequence[str]:
    """Resolve in a thread of its own, because the system's resolver cannot be interrupted.

    `wait` returns once the event is set, and raises where nobody waits any longer: the thread then ends unheard.
    """
    answer: list[Sequence[str]] = []
    failure: list[Exception] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            answer.append(resolve(host, port))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that asked
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    wait(done)
    if failure:
        raise failure[0]
    return answer[0]


def _faces(address: Address) -> list[Address]:
    """Every address that a packet to this one may end at."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner: list[Address] = []
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner.extend(address.teredo)
    if address in _NAT64:
        inner.append(IPv4Address(int(address) & 0xFFFF_FFFF))
    return [address, *inner]


def _network_of(address: Address, networks: Iterable[Network]) -> Network | None:
    return next((network for network in networks if address in network), None)
