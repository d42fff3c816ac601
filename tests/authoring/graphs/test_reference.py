"""docs/reference/expressions.md says what is: each row of its tables is evaluated."""

import json
import re
from pathlib import Path

import pytest
import yaml

from saga.authoring.graphs.expressions import (
    CHARS_MAX,
    LEVELS_MAX,
    MACROS_MAX,
    RESULT_SIZE_MAX,
    STEPS_MAX,
    Code,
    ExpressionError,
    check,
    evaluate,
    measured,
    parse,
    parse_template,
)
from saga.authoring.graphs.expressions.tree import Function, MacroName
from saga.contracts.json_text import DEPTH_MAX, INTEGER_MAX, INTEGER_MIN
from tests.authoring.graphs.fuzz import type_of
from tests.authoring.graphs.naive import naive, naive_text

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "expressions.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL))
DATA = json.loads(BLOCKS["json"])


def rows(header):
    """The cells of all tables that begin with *header*."""
    tables = re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE)
    for table in tables:
        head, _, *body = (_cells(line) for line in table.splitlines())
        if head[0] == header:
            yield from body


def _cells(line):
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return tuple(cell.strip().replace("\\|", "|").strip("`") for cell in cells)


def shown(value):
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@pytest.mark.parametrize(("text", "value", "why"), list(rows("expression")))
def test_an_expression_has_the_value_of_the_page(text, value, why):
    tree = parse(text)

    assert shown(evaluate(tree, DATA)) == shown(naive(tree, DATA)) == shown(json.loads(value))


@pytest.mark.parametrize(("text", "value", "why"), list(rows("template")))
def test_a_template_has_the_value_of_the_page(text, value, why):
    tree = parse_template(text)

    assert shown(evaluate(tree, DATA)) == shown(naive_text(tree, DATA)) == shown(json.loads(value))


@pytest.mark.parametrize(("code", "what", "text"), list(rows("code")))
def test_a_mistake_has_the_code_of_the_page(code, what, text):
    scope = {name: type_of(value) for name, value in DATA.items()}
    try:
        (found,) = (problem.code for problem in check(parse(text), scope).problems)
    except ExpressionError as error:
        found = error.problem.code

    assert found == code


def test_the_page_has_all_of_each():
    assert len(list(rows("expression"))) > 80
    assert {code for code, *_ in rows("code")} == set(Code)
    assert [most for _, most, _ in rows("what")] == [
        f"{most:,}"
        for most in (CHARS_MAX, LEVELS_MAX, MACROS_MAX, STEPS_MAX, RESULT_SIZE_MAX, DEPTH_MAX)
    ]
    assert str(INTEGER_MAX) in PAGE
    assert str(INTEGER_MIN) in PAGE
    for rule, words in {"macro": MacroName, "function": Function}.items():
        (named,) = re.findall(rf"^{rule} += (.*) ;$", BLOCKS["ebnf"], re.MULTILINE)
        assert set(re.findall(r'"(\w+)"', named)) == set(words)


def test_the_example_is_read():
    node = yaml.safe_load(BLOCKS["yaml"])

    assert evaluate(parse(node["when"]), DATA) is False
    assert evaluate(parse(node["set"]["cheapest"]), {"offer": [{"price": 2}]}) == 2
    said = {name: evaluate(parse_template(text), DATA) for name, text in node["with"].items()}
    assert said == {"receipt": None, "text": "order o-1 for 700"}


def test_steps_are_about_those_of_the_page():
    stated = re.findall(r"`(a\..*?)` over ([\d,]+)\s+items\s+takes about ([\d,]+)", PAGE)
    assert len(stated) == 2
    for text, items, steps in stated:
        data = {"a": [1] * int(items.replace(",", ""))}
        about = pytest.approx(int(steps.replace(",", "")), rel=0.05)
        assert measured(parse(text), data).steps == about
    pairs = parse("a.map(x, a.map(y, x + y))")
    assert measured(pairs, {"a": [1] * 1_000}).is_over
