"""Random expressions over random JSON; `make test-long` has a million of them."""

import inspect
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga.authoring.graphs.expressions import (
    ExpressionError,
    canonical,
    measured,
    parse,
    parse_template,
)
from tests.authoring.graphs.fuzz import CHARS_MAX, is_bounded, is_told_well, look_at

PIECES = st.sampled_from(
    (
        *"()[]!-+*.?:,'\"\\{}$ \n0aé\x00",
        *("&&", "||", "==", "<=", "in", "true", "null", "${", "\\u0041", "a.b", "size("),
        *(".map(x, ", "'a'", "12", "a["),
    )
)
HOSTILE = [
    "a.map(x, a.map(y, x.b == y.b))",
    "a.map(x, a)",
    "a.map(x, a) == a.map(x, a)",
    "a.filter(x, x in a)",
    "a.exists(x, string(a) in string(x))",
    "a.map(x, min(x.list) + max(x.list) + sum(x.list))",
    "a.map(x, x.text < x.text && x.text in x.text)",
    "a.map(x, a.map(y, [x, y, [x, y], [[x, y], [x, y]]]))",
]


@pytest.mark.parametrize("first", range(0, 2_000, 500))
def test_random_expressions_are_read_checked_and_evaluated(first):
    kinds = {look_at(Random(seed)) for seed in range(first, first + 500)}

    assert kinds >= {"NoneType", "bool", "int", "float", "str", "list"}


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_expressions_that_are_looked_for_are_too(random):
    look_at(random)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=40).map("".join)))
def test_any_text_is_read_or_refused(text):
    for read in (parse, parse_template):
        try:
            tree = read(text)
        except ExpressionError as error:
            is_told_well(text, error)
        else:
            assert canonical(read(canonical(tree))) == canonical(tree)


@pytest.mark.parametrize(
    "opening", ["(", "[", "!", "-", "a[", "size(", "a ? ", "a.map(x, ", "${", "'"]
)
def test_text_that_opens_and_never_closes_is_refused(opening):
    with pytest.raises(ExpressionError):
        parse(opening * (CHARS_MAX // len(opening)), chars_max=CHARS_MAX)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("steps_max", [1, 100, 20_000])
def test_no_evaluation_takes_more_calls_than_its_steps_allow(text, steps_max):
    item = {"b": [1, {"c": "x" * 50}], "list": list(range(50)), "text": "y" * 3_000}
    data = {"a": [{**item, "b": [number]} for number in range(1_000)]}

    calls = is_bounded(parse(text), data, steps_max=steps_max)

    found = measured(parse(text), data, steps_max=steps_max)
    assert (found.is_over, found.value, found.steps) == (True, None, steps_max)
    assert calls > steps_max / 50


def test_the_deepest_tree_is_evaluated_far_from_the_limit_of_recursion():
    text = "size([" * 8 + "a.map(x, a.map(y, x))" + "])" * 8
    tree = parse(text)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 180)
    try:
        assert measured(tree, {"a": [1]}).value == 1
    finally:
        sys.setrecursionlimit(before)
