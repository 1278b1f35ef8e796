"""Only the public internet is public."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_embed.inference.fetch.addresses import RefusedAddressError, is_public, make_public_socket

PRIVATE = """
127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254
169.254.170.2 100.64.0.1 100.100.100.200 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1
224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::ffff:0:127.0.0.1
64:ff9b::169.254.169.254 64:ff9b::10.0.0.1 64:ff9b:1::8.8.8.8 100::1 2001::1 2001:db8::1 2002:7f00:1::1
2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
"""
PUBLIC = """
8.8.8.8 1.1.1.1 93.184.216.34 172.32.0.1 100.128.0.1 169.253.0.1 168.63.129.17 192.0.1.1
2606:4700::1111 2a00:1450:4001::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private(address):
    assert not is_public(address)
    version = ipaddress.ip_address(address.partition("%")[0]).version
    with pytest.raises(RefusedAddressError, match="not a public address"):
        make_public_socket((2 if version == 4 else 10, 1, 6, "", (address, 80)))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public(address):
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_in_another_s_clothes_is_judged_by_what_it_is(address):
    assert is_public(f"::ffff:{address}") == is_public(f"64:ff9b::{address}") == is_public(str(address))


@given(st.ip_addresses())
def test_nothing_is_public_that_the_registry_does_not_call_global(address):
    if not address.is_global and getattr(address, "ipv4_mapped", None) is None:
        assert not is_public(str(address))


@pytest.mark.parametrize("address", ["localhost", "2130706433", "0x7f.1", ""])
def test_what_is_no_address_is_not_taken_for_one(address):
    with pytest.raises(ValueError):
        is_public(address)
