import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.address import Address
from identity.errors import InvalidAddress

PORTS = st.integers(1, 65_535)


@given(st.ip_addresses(), PORTS)
def test_every_ip_address_survives_its_text(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    address = Address(str(ip), port)
    assert Address.parse(str(address)) == address
    assert address.family == (4 if getattr(ip, "ipv4_mapped", None) else ip.version)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_an_invalid_address(text: str) -> None:
    try:
        address = Address.parse(text, default_port=4100)
    except InvalidAddress:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:4100", "192.0.2.1", 4100),
        ("[2001:db8::1]:4100", "2001:db8::1", 4100),
        ("peer-1.example.org:1", "peer-1.example.org", 1),
        (" localhost:65535 ", "localhost", 65535),
        ("192.0.2.1", "192.0.2.1", 7),
        ("2001:db8::1", "2001:db8::1", 7),
        ("[2001:db8::1]", "2001:db8::1", 7),
    ],
)
def test_usual_forms_are_read(text: str, host: str, port: int) -> None:
    assert Address.parse(text, default_port=7) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":1", "a:", "a:0", "a:65536", "a:-1", "a:+1", "a:1 2", "a:١", "a:1_0", "[::1", "[::1]x",
     "[a]:1", "a b:1", "-a:1", "a..b:1", "256.1.1.1:1", "1.2.3:1", "a/b:1", "é:1", "x" * 300 + ":1",
     "192.0.2.1", "a:1\x00", "99999:1"],
)  # fmt: skip
def test_unusable_forms_are_refused(text: str) -> None:
    with pytest.raises(InvalidAddress):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "loopback", "public", "block"),
    [
        ("127.0.0.1", True, False, ""),
        ("::1", True, False, ""),
        ("localhost", True, False, ""),
        ("192.168.1.2", False, False, ""),
        ("fe80::1", False, False, ""),
        ("224.0.0.1", False, False, ""),
        ("0.0.0.0", False, False, ""),
        ("example.org", False, False, ""),
        ("8.8.4.4", False, True, "8.8.4.0/24"),
        ("::ffff:8.8.4.4", False, True, "8.8.4.0/24"),
        ("2606:4700:4700::1111", False, True, "2606:4700:4700::/48"),
    ],
)
def test_only_public_hosts_have_a_block(
    host: str, loopback: bool, public: bool, block: str
) -> None:
    address = Address(host, 1)
    assert (address.is_loopback, address.is_public, address.block) == (loopback, public, block)


@pytest.mark.parametrize("wire", [["h", 0], ["h", 65_536], ["", 1], ["h" * 254, 1], ["h"], "h:1"])
def test_decoding_refuses_values_out_of_range(wire: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wire), type=Address)
