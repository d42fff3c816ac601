"""The value of an expression, whatever the data; docs/reference/expressions.md has most of them."""

import pytest

from saga.authoring.graphs.expressions import (
    RESULT_SIZE_MAX,
    evaluate,
    measured,
    parse,
    parse_template,
)

DATA = {
    "placed": {
        "amount": 700,
        "currency": "EUR",
        "note": None,
        "lines": [{"price": 3, "tags": ["a", "b"]}, {"price": 5, "tags": []}],
    },
    "two53": 2**53,
    "most": 2**64 - 1,
    "least": -(2**63),
    "huge": 1.7e308,
    "half": 0.5,
    "prices": [3, 5, 4],
    "words": ["b", "a"],
    "mixed": [1, "a"],
    "yes": True,
}
"""What the tables here and in the reference page are evaluated over."""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("most + 1", None),
        ("most + 1 - 1", None),
        ("least - 1", None),
        ("string(half * 0 * -1 - 0)", "-0.0"),
        ("-least", 2**63),
        ("-most", None),
        ("two53 + 1", 2**53 + 1),
        ("two53 + 1 == two53 + half", False),
        ("huge * 10", None),
        ("huge + huge - huge", None),
        ("1 == 1 * (half + half)", True),
        ("yes + 1", None),
        ("sum(mixed)", None),
        ("min(mixed)", None),
        ("max([yes])", None),
        ("sum([most, 1])", None),
        ("prices[half + half]", None),
        ("prices[yes]", None),
        ("prices[-1]", None),
        ("placed[0]", None),
        ("placed.lines.price", None),
        ("placed.currency.size", None),
        ("'x' in null", False),
        ("1 in placed", False),
        ("null in [null]", True),
        ("[1, [true]] == [1, [1]]", False),
        ("placed == placed", True),
        ("placed.lines == [placed.lines[0], placed.lines[1]]", True),
        ("placed.lines[0] == placed.lines[1]", False),
        ("missing <= missing", False),
        ("yes <= yes", False),
        ("null.a.b[0].c", None),
        ("placed.lines.map(x, x.tags.map(x, x))", [["a", "b"], []]),
        ("placed.lines.map(x, x.tags.exists(x, x == 'a') && x.price == 3)", [True, False]),
        ("missing.filter(x, true)", None),
        ("missing.all(x, false)", False),
        ("missing.exists(x, true)", False),
    ],
)
def test_there_is_always_a_value(text, value):
    found = evaluate(parse(text), DATA)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${placed.lines}", DATA["placed"]["lines"]),
        ("${placed.amount}", 700),
        ("${placed.note}", None),
        ("${placed.amount} ${placed.currency}", "700 EUR"),
        ("note: ${placed.note}.", "note: ."),
        ("${yes}${half}${prices}", "true0.5[3,5,4]"),
    ],
)
def test_a_template_that_is_one_expression_keeps_its_type(text, value):
    assert evaluate(parse_template(text), DATA) == value


MANY = {"a": list(range(100_000)), "b": ["x" * 100_000] * 1_000, "deep": []}
for _ in range(10_000):
    MANY["deep"] = [MANY["deep"]]


@pytest.mark.parametrize(
    "text",
    [
        "a.map(x, a.map(y, x + y))",
        "a.map(x, a)",
        "a.all(x, a.all(y, true))",
        "a.map(x, a) == a.map(x, a)",
        "a.exists(x, a.filter(y, y < 0) == a)",
        "a.map(x, string(a))",
        "a.filter(x, x + 1 in a)",
        "b.map(x, b.map(y, x + y == 'a' || x == y))",
        "b.exists(x, b.exists(y, 'xy' in y))",
        "deep",
        "string(deep)",
    ],
)
def test_work_and_results_beyond_their_bounds_are_null(text):
    found = measured(parse(text), MANY)

    assert (found.value, found.is_over) == (None, True)


@pytest.mark.parametrize(("text", "value"), [("deep == [deep]", False), ("[deep] == [deep]", True)])
def test_data_deeper_than_python_recurses_are_compared(text, value):
    assert evaluate(parse(text), MANY) is value


def test_a_hundred_thousand_items_are_no_trouble():
    assert evaluate(parse("sum(a.map(x, x * 2)) > 0 && a.exists(x, x == 99999)"), MANY) is True


def test_a_template_grows_no_further_than_a_message():
    text = "${b[0]}" * (RESULT_SIZE_MAX // 100_000)

    assert len(evaluate(parse_template(text), MANY)) == RESULT_SIZE_MAX
    assert measured(parse_template(text + "."), MANY).is_over


def test_data_are_left_as_they_are():
    before = {"a": [[1, 2], [3]]}
    evaluate(parse("a.map(x, x.filter(y, y > 1))"), before)

    assert before == {"a": [[1, 2], [3]]}
