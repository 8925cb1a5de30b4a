import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.records.epsilon import check_epsilon, format_epsilon, parse_epsilon


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        (" 4/255 ", 4 / 255),
        ("0.03", 0.03),
        ("0", 0.0),
        ("1", 1.0),
        ("1/3", 1 / 3),
        ("3", 3.0),
        ("300/255", 300 / 255),
    ],
)
def test_fractions_and_decimals_are_parsed(text, value):
    assert parse_epsilon(text) == value


@given(level=st.integers(0, 255))
@settings(deadline=None, derandomize=True)
def test_multiples_of_1_255_round_trip_exactly(level):
    assert parse_epsilon(format_epsilon(level / 255)) == level / 255


@given(value=st.floats(1e-6, 1e3))
@settings(deadline=None, derandomize=True)
def test_any_strength_round_trips_to_four_digits(value):
    assert parse_epsilon(format_epsilon(value)) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("value", "text"), [(8 / 255, "8/255"), (0.0, "0"), (1.0, "1"), (0.1, "0.1"), (0.5, "0.5")]
)
def test_strengths_are_formatted_as_in_the_papers(value, text):
    assert format_epsilon(value) == text


@pytest.mark.parametrize("text", ["eight", "", "nan", "inf", "1/0", "8/255/2", "1e400"])
def test_text_that_is_not_a_number_is_refused(text):
    with pytest.raises(ValueError, match=r"epsilon must be a number or a fraction such as 8/255"):
        parse_epsilon(text)


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match=r"epsilon must be 0 or more, got -1/255\."):
        parse_epsilon(" -1/255 ")


def test_eight_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"For the papers' 8 write 8/255\."):
        check_epsilon(8)


@pytest.mark.parametrize("value", [1.5, 8, 255])
def test_the_remedy_is_itself_accepted(value):
    with pytest.raises(ValueError, match="write ") as refusal:
        check_epsilon(value)
    remedy = str(refusal.value).split("write ")[1].rstrip(".")
    assert parse_epsilon(remedy) == pytest.approx(value / 255)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 256.0])
def test_values_without_a_sensible_remedy_are_refused_without_one(value):
    with pytest.raises(
        ValueError, match=r"epsilon must be in \[0, 1\] pixel units, got"
    ) as refusal:
        check_epsilon(value)
    assert "write" not in str(refusal.value)
