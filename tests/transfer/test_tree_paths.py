"""Paths and links of folders: what is refused, and that nothing that passes leads out."""

import posixpath
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import UnsafeTree
from transfer.tree_paths import DEPTH_MAX, LINK_HOPS_MAX, check_layout, check_link, folded

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
TARGETS = st.lists(st.sampled_from(["..", ".", "a", "b", "l", ""]), min_size=1, max_size=8).map(
    "/".join
)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../up",
        "a/../../up",
        "a/..",
        "./a",
        "a//b",
        "a/",
        "a\0b",
        "a\nb",
        "a\x7f",
        "a\\b",
        "con",
        "sub/NUL.txt",
        "COM1/file",
        "x" * 256,
        "/".join(["d" * 200] * 11),
        "a/" * (DEPTH_MAX + 1) + "b",
        "\udc80",
    ],
)
def test_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(UnsafeTree):
        check_layout([path], {})


@pytest.mark.parametrize(
    "paths",
    [
        ["readme", "README"],
        ["docs/a", "Docs/b"],
        ["stra\u00dfe", "STRASSE"],
        ["caf\u00e9", "cafe\u0301"],
        ["a/b", "A"],
    ],
)
def test_names_that_differ_only_in_case_or_composition_are_refused(paths: list[str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(UnsafeTree):
            check_layout(order, {})


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b", "a"], ["a", "a"], ["a/b/c", "a/b"]])
def test_one_path_cannot_be_two_things(paths: list[str]) -> None:
    with pytest.raises(UnsafeTree, match="two things"):
        check_layout(paths, {})


@given(st.sets(PATHS, max_size=12))
def test_a_layout_passes_exactly_when_no_leaf_lies_on_the_way_to_another(paths: set[str]) -> None:
    ways = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}
    try:
        check_layout(sorted(paths), {})
    except UnsafeTree as error:
        reserved = "reserved" in str(error)
        assert reserved or paths & ways
    else:
        assert not paths & ways


@given(st.text(min_size=1, max_size=8))
def test_what_is_folded_alike_is_folded_alike_in_any_case_and_composition(text: str) -> None:
    assert folded(text.upper().lower()) == folded(
        unicodedata.normalize("NFD", text.upper().lower())
    )


@pytest.mark.parametrize(
    ("path", "target", "says"),
    [
        ("l", "/etc/passwd", "leads out"),
        ("l", "..", "leads out"),
        ("a/l", "../../up", "leads out"),
        ("a/l", "b/../../../up", "leads out"),
        ("l", "", "leads nowhere"),
        ("l", "a\0b", "control"),
        ("l", "a\\b", "backslash"),
        ("l", "l", "circle"),
        ("l", "x" * 2000, "longer"),
    ],
)
def test_links_that_lead_out_or_in_a_circle_are_refused(path: str, target: str, says: str) -> None:
    with pytest.raises(UnsafeTree, match=says):
        check_link(path, target, {path: target})


def test_link_that_leads_out_through_another_link_is_refused() -> None:
    # Each looks harmless alone: `d/up` is the root, and `..` from there is outside.
    links = {"d/up": "..", "out": "d/up/../secret"}
    check_link("d/up", "..", links)
    with pytest.raises(UnsafeTree, match="leads out"):
        check_link("out", links["out"], links)


def test_links_that_stay_inside_pass_also_through_others_and_into_nothing() -> None:
    links = {"d/up": "..", "in": "d/up/d/file", "dangling": "no/such", "here": "."}
    check_layout(["d/file", *links], links)


def test_a_long_chain_of_links_is_refused() -> None:
    links = {f"l{number}": f"l{number + 1}" for number in range(LINK_HOPS_MAX + 5)}
    with pytest.raises(UnsafeTree, match="circle"):
        check_link("l0", "l1", links)


@given(st.dictionaries(st.sampled_from(["a/l", "l", "a/b/l", "b/l"]), TARGETS, max_size=4))
def test_a_link_without_others_passes_exactly_when_its_plain_way_stays_inside(
    links: dict[str, str],
) -> None:
    for path, target in links.items():
        at = path.count("/")
        stays = bool(target) and not target.startswith("/")
        for part in target.split("/"):
            at += -1 if part == ".." else part not in ("", ".")
            stays = stays and at >= 0
        try:
            check_link(path, target, {})
        except UnsafeTree:
            assert not stays
        else:
            assert stays
            assert not posixpath.normpath(posixpath.join("root", path, "..", target)).startswith(
                ".."
            )
