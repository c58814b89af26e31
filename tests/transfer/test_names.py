"""Which names pass."""

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import UnsafeName
from transfer.names import check_name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:\\x",
        "a\0b",
        "a\nb",
        "\x1b[31mred",
        "\x7f",
        "\x85",
        "\ud800",
        "x" * 256,
        "ä" * 128,
        "CON",
        "nul.txt",
        "Com1",
        "lpt9.tar.gz",
        "aux .txt",
    ],
)
def test_unsafe_name_is_refused_with_a_printable_reason(name: str) -> None:
    with pytest.raises(UnsafeName) as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "-rf",
        "with space.txt",
        "me@home.txt",
        "[red].txt",
        "\u202egnp.exe",
        "🐟🐠.tar.gz",
        "x" * 255,
        "...",
        ".hidden",
        "console.txt",
        "com10",
        "trailing.",
        "trailing ",
        "日本語",
    ],
)
def test_unusual_name_is_kept_as_it_is(name: str) -> None:
    assert check_name(name) == name


@given(st.text(max_size=300))
def test_name_that_passes_stays_in_its_folder(name: str) -> None:
    try:
        check_name(name)
    except UnsafeName:
        return
    assert (PurePosixPath("inbox") / name).parent == PurePosixPath("inbox")
    assert PureWindowsPath(name).name
    assert len(name.encode()) <= 255
    assert not any(unicodedata.category(letter) == "Cc" for letter in name)
