"""Random expressions over random JSON: `python -m tests.authoring.graphs.fuzz`.

Of each expression is asked: its canonical text, or that with other blanks, reads back as it; it has
a value within its bounds, which a naive reading of the reference has too; what was found of its
type holds for the value; and a text that differs from it a little is read or refused, no more.
`make test-long` looks at a million. `--first N --expressions 1` repeats one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from random import Random

from saga.authoring.graphs.expressions import (
    STEPS_MAX,
    ExpressionError,
    Kind,
    canonical,
    check,
    fits,
    measured,
    names,
    parse,
    parse_template,
)
from saga.authoring.graphs.expressions.checking import joined
from saga.authoring.graphs.expressions.lexer import tokens
from saga.authoring.graphs.expressions.tree import (
    And,
    Call,
    Choice,
    Comparison,
    Constant,
    Field,
    Function,
    Index,
    Items,
    Macro,
    MacroName,
    Name,
    Negative,
    Not,
    Operator,
    Or,
    Product,
    Sign,
    Sum,
    Template,
    Text,
    Whole,
)
from saga.authoring.graphs.expressions.types import BOOL, FLOAT, INT, NULL, Type, list_of, record
from saga.contracts import json_text
from tests.authoring.graphs.naive import naive, naive_text

NAMES = ("a", "b", "c", "order")
VARIABLES = ("x", "y", "a")
FIELDS = ("x", "y", "size", "in", "map", "order-id")
TEXTS = ("", *"abä😀\"'\\}\u202e\n\x7f1", "ab", "true", "${")
WHOLES = (0, 1, 2, 3, 2**53, 2**53 + 1, 2**63, 2**64 - 1)
REALS = (0.0, -0.0, 0.5, 1.0, -2.5, 5e-324, 1.7e308, -1.7e308, 9007199254740992.0)
DAMAGE = (
    *"()[]=.'\"\\$}0?:,!-é\x00\ud800",
    *("&&", "in", "\\u", "${", " map(", "size(", "1.5", "9" * 30),
)
CHUNK = 2_000
LEVELS = 4
CHARS_MAX = 100_000
"""Canonical texts have more blanks and escapes than what was read; levels bound them as well."""
CALLS_A_STEP_MAX = 40
"""How many calls of functions, ours and Python's, one step may take."""
CALLS_AT_LEAST = 500
BOUNDED_SHARE = 0.005
"""How many evaluations have their calls counted, which is slow."""


def json_of(random: Random, levels: int = 3) -> object:
    kind = random.randrange(8 if levels else 5)
    if kind == 0:
        return random.choice((None, True, False))
    if kind == 1:
        return random.choice((-1, 1)) * random.choice(WHOLES[:7])
    if kind == 2:
        return random.choice(REALS)
    if kind in {3, 4}:
        return random.choice(TEXTS)
    if kind == 5:
        item = json_of(random, levels - 1)
        return (
            [item] * random.randrange(4)
            if random.random() < 0.4
            else [json_of(random, levels - 1) for _ in range(random.randrange(4))]
        )
    return {
        name: json_of(random, levels - 1)
        for name in random.sample(FIELDS, random.randrange(1, len(FIELDS)))
    }


def data_of(random: Random) -> dict[str, object]:
    return {name: json_of(random) for name in NAMES if random.random() < 0.9}


class Grammar:
    """Trees as the grammar has them, within its limits."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._bound: list[str] = []

    def expression(self, levels: int = LEVELS) -> object:
        random = self._random
        if levels <= 0 or random.random() < 0.15:
            return self._leaf()
        below = levels - 1
        match random.randrange(14):
            case 0:
                return Or(self._row(below))
            case 1:
                return And(self._row(below))
            case 2 | 3:
                operator = random.choice(list(Operator))
                return Comparison(self.expression(below), operator, self.expression(below))
            case 4:
                rest = ((random.choice(list(Sign)), each) for each in self._row(below)[1:])
                return Sum(self.expression(below), tuple(rest))
            case 5:
                return Product(self._row(below))
            case 6:
                return random.choice((Not, Negative))(self.expression(below))
            case 7:
                return Choice(*(self.expression(below) for _ in range(3)))
            case 8:
                return Items(tuple(self.expression(below) for _ in range(random.randrange(4))))
            case 9:
                return Call(random.choice(list(Function)), self.expression(below))
            case 10 | 11 if len(self._bound) < 2:
                return self._macro(below)
            case _:
                return self.path(levels, self.expression(below))

    def path(self, levels: int, of: object) -> object:
        if self._random.random() < 0.6:
            return Field(of, self._random.choice(FIELDS[:-1]))
        return Index(of, self.expression(levels - 1))

    def template(self) -> Template:
        parts = []
        for _ in range(self._random.randrange(1, 4)):
            if self._random.random() < 0.5 and not (parts and isinstance(parts[-1], str)):
                parts.append(self._random.choice(("a", "$", "}", "{ ", "'", '"')))
            else:
                parts.append(self.expression(2))
        return Template(tuple(parts))

    def _macro(self, levels: int) -> Macro:
        of = Name(self._random.choice((*NAMES, *self._bound)))
        for _ in range(self._random.randrange(3)):
            of = self.path(1, of)
        if levels > 1 and self._random.random() < 0.2:
            of = self._macro(levels - 2)
        variable = self._random.choice(VARIABLES)
        self._bound.append(variable)
        body = self.expression(levels)
        self._bound.pop()
        return Macro(of, self._random.choice(list(MacroName)), variable, body)

    def _row(self, levels: int) -> tuple[object, ...]:
        return tuple(self.expression(levels) for _ in range(self._random.randrange(2, 4)))

    def _leaf(self) -> object:
        random = self._random
        match random.randrange(8):
            case 0:
                return Constant(random.choice((None, True, False)))
            case 1 | 2:
                return Whole(random.choice(WHOLES))
            case 3:
                return Text(random.choice(TEXTS))
            case _:
                return Name(random.choice((*NAMES, *self._bound)))


def type_of(value: object) -> Type:
    """What is known of *value* for certain."""
    match value:
        case None:
            return NULL
        case bool():
            return BOOL
        case int():
            return INT
        case float():
            return FLOAT
        case str():
            return Type(Kind.TEXT, choices=(value,))
        case list():
            return list_of(joined(map(type_of, value)))
        case dict():
            return record("", {name: type_of(each) for name, each in value.items()})
    raise AssertionError(value)


def spelled(random: Random, text: str) -> str:
    """*text* with other blanks and quotes, and more parentheses."""
    words = [token.text for token in tokens(text, 0, len(text))]
    if random.random() < 0.3:
        words = ["(", *words, ")"]
    text = words[0]
    for before, word in pairwise(words):
        needs_blank = (before[-1:].isalnum() or before[-1:] == "_") and (
            word[:1].isalnum() or word[:1] == "_"
        )
        needs_blank |= before[-1:].isdigit() and word == "."
        text += random.choice(("", " ", "\n", "\t ")) or (" " if needs_blank else "")
        text += word
    return text


def damaged(random: Random, text: str) -> str:
    """*text* with a few characters gone, others there."""
    characters = list(text)
    for _ in range(random.randrange(1, 4)):
        place = random.randrange(len(characters) + 1)
        if random.random() < 0.5:
            del characters[place : place + random.randrange(1, 4)]
        else:
            characters[place:place] = random.choice(DAMAGE)
    return "".join(characters)


def look_at(random: Random) -> str:
    """The type of the value of one expression; an error where anything is not as it must be."""
    data = data_of(random)
    tree = Grammar(random).expression()
    text = canonical(tree)
    assert parse(random.choice((text, spelled(random, text))), chars_max=CHARS_MAX) == tree, text
    told = _evaluates(tree, data)
    _is_sound(tree, data)
    _reads_or_refuses(damaged(random, text))
    template = Grammar(random).template()
    assert parse_template(canonical(template)) == template, template
    found = measured(template, data)
    assert found.is_over or same(found.value, naive_text(template, data)), (template, data, found)
    if random.random() < BOUNDED_SHARE:
        many = {name: [data] * 40 for name in NAMES}
        is_bounded(tree, many, steps_max=random.randrange(1, 3_000))
    return told


def _evaluates(tree: object, data: dict[str, object]) -> str:
    found = measured(tree, data)
    assert 0 < found.steps <= STEPS_MAX
    json_text.canonical(found.value)
    expected = naive(tree, data)
    if found.is_over:
        assert found.value is None
        return "over"
    assert same(found.value, expected), (canonical(tree), data, found, expected)
    return type(found.value).__name__


def same(one: object, other: object) -> bool:
    return one is other or (type(one) is type(other) and repr(one) == repr(other))


def _is_sound(tree: object, data: dict[str, object]) -> None:
    """A type that was found without a problem is that of the value."""
    scope = {name: type_of(value) for name, value in data.items()}
    checked = check(tree, scope)
    assert all(each.offset >= 0 for each in checked.problems)
    if not checked.problems:
        assert all(name.name in scope for name in names(tree))
        value = measured(tree, data).value
        assert fits(type_of(value), checked.type), (canonical(tree), data, value, checked)


def _reads_or_refuses(text: str) -> None:
    try:
        tree = parse(text, chars_max=CHARS_MAX)
    except ExpressionError as error:
        is_told_well(text, error)
    else:
        assert parse(canonical(tree), chars_max=CHARS_MAX) == tree, text
    try:
        parse_template(text)
    except ExpressionError as error:
        is_told_well(text, error)


def is_told_well(text: str, error: ExpressionError) -> None:
    assert 0 <= error.problem.offset <= len(text), (text, error.problem)
    assert error.problem.message.encode()


def is_bounded(tree: object, data: dict[str, object], *, steps_max: int) -> int:
    """The calls that an evaluation of at most *steps_max* took; too many are an error."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        measured(tree, data, steps_max=steps_max)
    finally:
        sys.setprofile(before)
    assert calls <= CALLS_AT_LEAST + CALLS_A_STEP_MAX * steps_max, (canonical(tree), calls)
    return calls


def _chunk(seeds: range) -> tuple[Counter[str], list[str]]:
    seen: Counter[str] = Counter()
    failed = []
    for seed in seeds:
        try:
            seen[look_at(Random(seed))] += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what was looked for
            failed.append(f"seed {seed}: {type(error).__name__}: {error}")
    return seen, failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.authoring.graphs.fuzz")
    parser.add_argument("--expressions", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    given = parser.parse_args()
    end = given.first + given.expressions
    chunks = [range(at, min(at + CHUNK, end)) for at in range(given.first, end, CHUNK)]
    seen: Counter[str] = Counter()
    failed: list[str] = []
    began_s = time.monotonic()
    with ProcessPoolExecutor(given.jobs) as pool:
        for counted, failures in pool.map(_chunk, chunks):
            seen += counted
            failed += failures
            for failure in failures[:5]:
                print(failure, flush=True)
    lasted_s = time.monotonic() - began_s
    print(f"{given.expressions} expressions in {lasted_s:.0f} s, {len(failed)} failed")
    print(", ".join(f"{count} {kind}" for kind, count in seen.most_common()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
