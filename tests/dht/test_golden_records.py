"""The bytes of records, as docs/protocol/records.md shows them: a change here breaks networks."""

import hashlib
import re
from pathlib import Path

import pytest

from dht.records import Payload, check_record, decode_record, encode_record, record_digest
from tests.support.records import NETWORK_ID, NOW_MS, one_of_each_kind, signed

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol" / "records.md"
# SHA-256 of each record: shorter to keep here than the bytes, which the document has.
GOLDEN = {
    "name": "e739e66c7ae800af58f689dbb0846b63f10ec883ca99923c98dc79ad3ff69756",
    "content": "f14ef758dde90b20f2c11284fa1e46db1f4d5f08c21be702f5f76ebf154260df",
    "word": "b42c1d0fca1ee6e7ec61c6c64c80499d5f27bf925db191b34619477aefbc25fe",
    "peer": "51e47d37613031634aaf4169058f30933013451b9cd6d4c5dd033b7ebceed896",
    "peer, under its nickname": "20287beb15becb702b09ded56eaf3b5a2d3ff3686877bc9f116b98409b2e34ba",
    "mail": "094a5ba7b76d389483498b1848a09f6655e85f6f7b9d8cc01dc08f89288e3a76",
    "word, in its shard": "c291cf4c56011347f936db6b212e783b37196f5ec63553d9c26a0c8134418222",
    "name, withdrawn": "98cb3bf8beb44aff33664785b9c6d4e35e1e77f1e26d49c2f212cf8a571d82d5",
}
MADE: dict[str, tuple[Payload, bool]] = {
    **{
        name: (payload, False)
        for name, payload in zip(list(GOLDEN)[:-1], one_of_each_kind(), strict=True)
    },
    "name, withdrawn": (one_of_each_kind()[0], True),
}


def documented() -> dict[str, bytes]:
    """Read the examples out of the document."""
    examples = DOCUMENT.read_text(encoding="utf-8").partition("## Examples")[2]
    blocks = re.findall(r"^([a-z, ]+):\n\n```\n([0-9a-f\n]+)```$", examples, re.MULTILINE)
    return {name: bytes.fromhex(text) for name, text in blocks}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_record_has_the_documented_bytes(name: str) -> None:
    payload, withdrawn = MADE[name]
    record = signed(payload, sequence=NOW_MS + withdrawn, withdrawn=withdrawn)
    assert hashlib.sha256(encode_record(record)).hexdigest() == GOLDEN[name]
    assert record_digest(record).hex() == GOLDEN[name]
    assert encode_record(record) == documented()[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_documented_bytes_are_a_good_record(name: str) -> None:
    record = decode_record(documented()[name])
    check_record(record, NETWORK_ID, now_ms=NOW_MS)


def test_the_document_has_exactly_these_examples() -> None:
    assert documented().keys() == GOLDEN.keys() == MADE.keys()
