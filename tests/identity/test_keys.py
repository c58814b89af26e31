import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import BadKeyFile, InvalidPeerId
from identity.keys import Identity, parse_peer_id, peer_id_of, short_peer_id, show_peer_id

BASE32 = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


@given(st.binary(min_size=20, max_size=20))
def test_every_peer_id_survives_its_text(peer_id: bytes) -> None:
    text = show_peer_id(peer_id)
    assert len(text) == 32
    assert text == text.lower()
    assert parse_peer_id(text) == parse_peer_id(text.upper()) == peer_id
    assert text.startswith(short_peer_id(peer_id))
    assert len(short_peer_id(peer_id)) == 8


@given(st.text(max_size=40))
def test_any_text_is_a_peer_id_or_an_invalid_one(text: str) -> None:
    try:
        assert show_peer_id(parse_peer_id(text)) == text.lower()
    except InvalidPeerId:
        assert len(text) != 32 or not text.isascii() or not set(text.upper()) <= BASE32


@pytest.mark.parametrize("text", ["", "a" * 31, "a" * 33, "1" * 32, "é" * 32, "a" * 31 + "="])
def test_unusable_peer_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidPeerId):
        parse_peer_id(text)


def test_the_key_file_alone_brings_the_whole_identity_back(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity.key"
    made = Identity.load_or_create(path)
    loaded = Identity.load_or_create(path)
    assert loaded.public_key == made.public_key
    assert loaded.peer_id == made.peer_id == peer_id_of(made.public_key)
    assert loaded.sealing_public_key == made.sealing_public_key
    assert path.stat().st_size == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]  # nothing temporary is left


def test_a_key_file_open_to_others_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    made = Identity.load_or_create(path)
    path.chmod(0o644)
    assert Identity.load_or_create(path).peer_id == made.peer_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 5_000])
def test_a_malformed_key_file_is_an_error_and_stays_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    with pytest.raises(BadKeyFile, match=r"identity\.key"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_a_folder_or_a_pipe_in_the_key_files_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(BadKeyFile):
            Identity.load_or_create(tmp_path / name)


def test_a_key_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadKeyFile):
        Identity.load_or_create(tmp_path / "file" / "identity.key")


def test_racing_creators_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: Identity.load_or_create(path).peer_id, range(32)))
    assert set(made) == {Identity.load_or_create(path).peer_id}


def test_no_secret_shows_in_a_repr() -> None:
    made = Identity.from_seed(b"s" * 32)
    assert "ssss" not in repr(made)
    assert show_peer_id(made.peer_id) in repr(made)
