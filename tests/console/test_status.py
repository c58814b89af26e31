from hypothesis import given
from hypothesis import strategies as st

from console.status import status_lines
from console.text import is_plain


def test_names_and_values_stand_in_two_columns_and_long_values_go_on_below() -> None:
    drops = {f"reason-{number}": 9 - number for number in range(9)} | {"none": 0}
    fields = {"nickname": "ada", "queue": None, "private": True, "uptime_s": 3720, "drops": drops}
    lines = status_lines(fields, width=40)
    assert lines[:4] == ["nickname  ada", "queue     -", "private   yes", "uptime_s  1 h 2 min"]
    assert lines[4] == "drops     reason-0=9, reason-1=8,"
    assert lines[5] == "          reason-2=7, reason-3=6,"
    assert "none" not in "".join(lines)


def test_notes_on_others_stand_beside_whom_they_concern() -> None:
    fields = {"hosts_noted": {"abc": "gave a wrong proof", "def": "lost a delivery"}}
    (line,) = status_lines(fields, width=80)
    assert line == "hosts_noted  abc: gave a wrong proof, def: lost a delivery"


@given(
    st.dictionaries(
        st.text(max_size=9),
        st.none()
        | st.text()
        | st.integers()
        | st.dictionaries(st.text(), st.integers())
        | st.dictionaries(st.text(), st.text()),
    ),
    st.integers(0, 200),
)
def test_any_text_is_plain_lines(fields: dict[str, object], width: int) -> None:
    assert all(is_plain(line) for line in status_lines(fields, width=width))
