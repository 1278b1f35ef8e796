"""Which network addresses a data set's urls may lead to; knows no HTTP and no names.

Whoever made a data set chose its urls, and the workers stand inside somebody's network: without this check a
url could read what that network shows only to its own machines, a cloud's credentials first of all.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# `is_global` follows the IANA registries of special addresses, but not all of them in every Python 3.11.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's host agent: a public address that only virtual machines reach
        "192.0.0.0/24",  # IETF protocol assignments; 192.0.0.192 is Oracle's metadata service
        "192.88.99.0/24",  # relays of 6to4
        "64:ff9b:1::/48",  # NAT64 of a local network, RFC 8215
        "2001::/23",  # protocol assignments, Teredo among them
        "2002::/16",  # 6to4: an IPv4 address in a tunnel
        "3fff::/20",  # documentation, RFC 9637
        "fec0::/10",  # site-local, before fc00::/7
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class RefusedAddressError(OSError):
    """A name led to an address that may not be connected to."""

    def __init__(self) -> None:
        # The same text for every address of a host, so that one that has several fails with this class.
        super().__init__(errno.EACCES, "not a public address")


def is_public(address: str) -> bool:
    """Say whether an IP address belongs to the public internet.

    Not public are private, loopback, link-local (cloud metadata), shared (100.64/10), multicast, reserved
    and unspecified addresses, and IPv6 addresses that carry such an IPv4 address.

    Raises:
        ValueError: not an IP address.
    """
    ip: Address = ipaddress.ip_address(address.partition("%")[0])  # %: a link-local address's interface
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    special = ip.is_private or ip.is_multicast or ip.is_reserved or any(ip in net for net in _SPECIAL)
    return ip.is_global and not special


def make_public_socket(address_info: tuple[Any, ...]) -> socket.socket:
    """Make the socket that will connect to this address and to no other, an entry of `getaddrinfo`.

    Raises:
        RefusedAddressError: the address is not public.
    """
    family, kind, protocol, _, address = address_info
    if not is_public(str(address[0])):
        raise RefusedAddressError
    return socket.socket(family, kind, protocol)
