"""Which addresses are special, in every form that an address has, and what an allowance lets through."""

from ipaddress import ip_address, ip_network

import pytest

from common.config import Settings, read_networks
from common.errors import Misconfigured
from task_runner.handlers.http_guard import SPECIAL, Refused, check_address, resolve_name

PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "168.63.129.17",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:1.1.1.1",
]
INWARD = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    check_address(address, [])


@pytest.mark.parametrize("address", INWARD)
def test_special_addresses_are_refused(address: str) -> None:
    with pytest.raises(Refused) as refused:
        check_address(address, [])
    assert refused.value.address == address


def test_whatever_python_calls_not_global_is_special() -> None:
    """The first and the last address of each special network, and all that the standard library knows of."""
    for network in SPECIAL:
        for address in (network[0], network[-1]):
            with pytest.raises(Refused):
                check_address(str(address), [])
    for number in range(2**16):  # the first address of each /16
        address = ip_address(number << 16)
        if not address.is_global:
            with pytest.raises(Refused):
                check_address(str(address), [])


@pytest.mark.parametrize(
    ("allow", "address"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
        ("10.0.0.0/8,fd00::/8", "fd00::5"),
        ("::1/128", "::1"),
        ("64:ff9b::/96", "64:ff9b::101:101"),
        ("64:ff9b::/96,10.0.0.0/8", "64:ff9b::a00:1"),
        ("fe80::/10", "fe80::1%eth0"),
    ],
)
def test_an_allowed_network_passes(allow: str, address: str) -> None:
    check_address(address, read_networks(allow))


@pytest.mark.parametrize(
    ("allow", "address", "network"),
    [
        ("127.0.0.0/8", "10.0.0.1", "10.0.0.0/8"),
        ("127.0.0.1", "127.0.0.2", "127.0.0.0/8"),
        ("127.0.0.0/8", "::1", "::/3"),
        ("64:ff9b::/96", "64:ff9b::a9fe:a9fe", "169.254.0.0/16"),
        ("2002::/16", "2002:7f00:1::", "127.0.0.0/8"),
        ("::ffff:0:0/96", "::ffff:127.0.0.1", "127.0.0.0/8"),
    ],
)
def test_an_allowance_reaches_no_further(allow: str, address: str, network: str) -> None:
    with pytest.raises(Refused) as refused:
        check_address(address, read_networks(allow))
    assert refused.value.network == network


def test_the_setting_is_checked_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_networks(" 127.0.0.0/8 ,fd00::/8,") == (ip_network("127.0.0.0/8"), ip_network("fd00::/8"))
    monkeypatch.setenv("SIGNALBOX_HTTP_ALLOW", "127.0.0.1/8")
    with pytest.raises(Misconfigured, match=r"SIGNALBOX_HTTP_ALLOW: .*127\.0\.0\.1/8 has host bits set"):
        Settings.load()


def test_names_and_numbers_are_resolved_by_the_system() -> None:
    assert resolve_name("127.1", 80) == ["127.0.0.1"]
    assert resolve_name("2130706433", 80) == ["127.0.0.1"]
    assert resolve_name("::1", 80) == ["::1"]
