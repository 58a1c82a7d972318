"""The settings of runs as text."""

import string

from hypothesis import example, given
from hypothesis import strategies as st

from tinyohem.config.recipes import parse_literal
from tinyohem.runs.settings import value_text

TEXTS = st.text(string.ascii_letters + string.digits + string.punctuation + " äé–\n")
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)


@given(VALUES)
@example("1e6")
@example("null")
@example("true")
@example("5 # five")
def test_a_value_reads_as_itself_after_set(value: object) -> None:
    again = parse_literal(value_text(value))
    assert (type(again), again) == (type(value), value)
