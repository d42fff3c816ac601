"""The value of an expression over JSON: there is always one, and always soon.

Whatever the data lack or are instead, the grammar's operators have a value for it, most often null.
Work is counted in steps: a node of the tree, a value looked at in a comparison or in the result,
and `TEXT_CHARS_A_STEP` characters of a text that is read or made are one each. An evaluation that
needs more than `STEPS_MAX`, or whose result no message could carry, ends there: its value is null.
Replays compute values again, so the bounds are part of what an expression means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias, assert_never

from pydantic import JsonValue

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
    Node,
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
from saga.contracts.json_text import DEPTH_MAX, INTEGER_MAX, INTEGER_MIN, canonical
from saga.core.values import value
from saga.errors import MalformedMessage

STEPS_MAX = 1_000_000
"""Of one evaluation: about a second. A hundred thousand items with nine steps each."""
RESULT_SIZE_MAX = 1_000_000
"""Of a result: one for each value in it, and the characters of its texts and names."""
TEXT_CHARS_A_STEP = 32
Number: TypeAlias = int | float


@value
class Evaluation:
    """*is_over* where a bound was passed, and the value is null for that."""

    value: JsonValue
    steps: int
    is_over: bool


def evaluate(expression: Node | Template, names: Mapping[str, JsonValue]) -> JsonValue:
    """Its value, where *names* have values; a name that is not among them is null."""
    return measured(expression, names).value


def measured(
    expression: Node | Template, names: Mapping[str, JsonValue], *, steps_max: int = STEPS_MAX
) -> Evaluation:
    """As `evaluate`, and what it took."""
    run = _Run(names, steps_max)
    try:
        if isinstance(expression, Template) and expression.only is None:
            result: JsonValue = run.text(expression)
        else:
            root = expression.only if isinstance(expression, Template) else expression
            assert root is not None
            result = run.value(root)
            run.weigh(result)
    except _OverError:
        return Evaluation(None, steps_max, is_over=True)
    return Evaluation(result, steps_max - run.left, is_over=False)


class _OverError(Exception):
    """A bound is passed."""


class _Run:
    """One evaluation: the names, those that macros bind, and the steps that are left."""

    def __init__(self, names: Mapping[str, JsonValue], steps_max: int) -> None:
        self.left = steps_max
        self._names = names
        self._bound: dict[str, JsonValue] = {}

    def value(self, node: Node) -> JsonValue:  # noqa: C901  # a case a node
        self.spend(1)
        match node:
            case Name(name=name):
                return self._bound[name] if name in self._bound else self._names.get(name)
            case Field(of=of, name=name):
                return _member(self.value(of), name)
            case Constant(value=literal) | Whole(value=literal) | Text(value=literal):
                return literal
            case Comparison(left=left, operator=operator, right=right):
                return self._compared(self.value(left), operator, self.value(right))
            case And(operands=operands):
                return all(self.value(operand) is True for operand in operands)
            case Or(operands=operands):
                return any(self.value(operand) is True for operand in operands)
            case Not(operand=operand):
                return self.value(operand) is not True
            case Choice(condition=condition, chosen=chosen, otherwise=otherwise):
                return self.value(chosen if self.value(condition) is True else otherwise)
            case Index(of=of, index=index):
                return _member(self.value(of), self.value(index))
            case Negative(operand=operand):
                number = _number(self.value(operand))
                return None if number is None else _number(-number)
            case Sum(first=first, rest=rest):
                return self._sum(first, rest)
            case Product(factors=factors):
                return self._product(factors)
            case Items(items=items):
                return [self.value(item) for item in items]
            case Macro():
                return self._macro(node)
            case Call(function=function, argument=argument):
                return self._call(function, self.value(argument))
            case _:
                assert_never(node)

    def text(self, template: Template) -> str:
        """A template in one text: null is nothing, all else as `string` writes it."""
        parts: list[str] = []
        size = 0
        for part in template.parts:
            said = part if isinstance(part, str) else self._string(self.value(part))
            self._read(said)
            size += len(said or "")
            if size > RESULT_SIZE_MAX:
                raise _OverError
            parts.append(said or "")
        return "".join(parts)

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _OverError

    def weigh(self, result: JsonValue) -> None:
        """Look through *result*; it is over where it is too large or too deep, or no JSON."""
        size, layer = 0, [result]
        for _ in range(DEPTH_MAX + 1):
            self.spend(len(layer))
            size += len(layer)
            below: list[JsonValue] = []
            for each in layer:
                if isinstance(each, str):
                    size += len(each)
                elif isinstance(each, list):
                    self.spend(len(each))
                    below += each
                elif isinstance(each, dict):
                    self.spend(len(each))
                    size += sum(map(len, each))
                    below += each.values()
                elif each is not None and not isinstance(each, bool) and _number(each) is None:
                    raise _OverError
            if size > RESULT_SIZE_MAX:
                raise _OverError
            if not below:
                return
            layer = below
        raise _OverError

    def _compared(self, left: JsonValue, operator: Operator, right: JsonValue) -> bool:
        match operator:
            case Operator.EQUAL:
                return self._equal(left, right)
            case Operator.UNEQUAL:
                return not self._equal(left, right)
            case Operator.IN:
                return self._in(left, right)
            case Operator.LESS:
                return self._less(left, right)
            case Operator.MORE:
                return self._less(right, left)
            case Operator.AT_MOST:
                return self._less(left, right) or self._alike(left, right)
            case Operator.AT_LEAST:
                return self._less(right, left) or self._alike(left, right)
            case _:
                assert_never(operator)

    def _equal(self, left: JsonValue, right: JsonValue) -> bool:
        pairs = [(left, right)]
        while pairs:
            one, other = pairs.pop()
            self.spend(1)
            if isinstance(one, list) and isinstance(other, list):
                if len(one) != len(other):
                    return False
                self.spend(len(one))
                pairs += zip(one, other, strict=True)
            elif isinstance(one, dict) and isinstance(other, dict):
                self.spend(len(one))
                if one.keys() != other.keys():
                    return False
                pairs += ((one[key], other[key]) for key in one)
            elif not self._equal_scalars(one, other):
                return False
        return True

    def _equal_scalars(self, one: JsonValue, other: JsonValue) -> bool:
        if isinstance(one, str) and isinstance(other, str):
            self._read(one)
            return one == other
        if one is None or isinstance(one, bool) or isinstance(other, bool):
            return one is other
        number, another = _number(one), _number(other)
        return number is not None and number == another

    def _less(self, left: JsonValue, right: JsonValue) -> bool:
        if isinstance(left, str) and isinstance(right, str):
            self._read(left)
            return left < right
        number, other = _number(left), _number(right)
        return number is not None and other is not None and number < other

    def _alike(self, left: JsonValue, right: JsonValue) -> bool:
        """Whether both have an order, and are equal."""
        has_order = isinstance(left, str) or _number(left) is not None
        return has_order and self._equal_scalars(left, right)

    def _in(self, item: JsonValue, among: JsonValue) -> bool:
        if isinstance(among, list):
            return any(self._equal(item, each) for each in among)
        if not isinstance(item, str):
            return False
        if isinstance(among, str):
            self._read(among)
            self._read(item)
            return item in among
        return isinstance(among, dict) and item in among

    def _sum(self, first: Node, rest: Iterable[tuple[Sign, Node]]) -> Number | None:
        total = _number(self.value(first))
        for sign, term in rest:
            number = _number(self.value(term))
            if sign is Sign.PLUS or total is None or number is None:
                total = _added(total, number)
            else:  # not by adding its opposite: a whole 0 has none, and -0.0 - 0 is -0.0
                total = _number(total - number)
        return total

    def _product(self, factors: Iterable[Node]) -> Number | None:
        product: Number | None = 1
        for factor in factors:
            number = _number(self.value(factor))
            product = None if product is None or number is None else _number(product * number)
        return product

    def _macro(self, node: Macro) -> JsonValue:
        items = self.value(node.of)
        is_bound, outer = node.variable in self._bound, self._bound.get(node.variable)
        try:
            return self._over(node, items)
        finally:
            if is_bound:
                self._bound[node.variable] = outer
            else:
                self._bound.pop(node.variable, None)

    def _over(self, node: Macro, items: JsonValue) -> JsonValue:
        match node.macro:
            case MacroName.ALL:
                return isinstance(items, list) and all(self._bodies_true(node, items))
            case MacroName.EXISTS:
                return isinstance(items, list) and any(self._bodies_true(node, items))
            case MacroName.FILTER:
                if not isinstance(items, list):
                    return None
                pairs = zip(items, self._bodies_true(node, items), strict=True)
                return [item for item, is_true in pairs if is_true]
            case MacroName.MAP:
                return None if not isinstance(items, list) else list(self._bodies(node, items))
            case _:
                assert_never(node.macro)

    def _bodies(self, node: Macro, items: list[JsonValue]) -> Iterable[JsonValue]:
        for item in items:
            self._bound[node.variable] = item
            yield self.value(node.body)

    def _bodies_true(self, node: Macro, items: list[JsonValue]) -> Iterable[bool]:
        return (result is True for result in self._bodies(node, items))

    def _call(self, function: Function, argument: JsonValue) -> JsonValue:
        match function:
            case Function.HAS:
                return argument is not None
            case Function.SIZE:
                return len(argument) if isinstance(argument, str | list | dict) else None
            case Function.SUM:
                return self._total(argument) if isinstance(argument, list) else None
            case Function.MIN:
                return self._extreme(argument, lowest=True)
            case Function.MAX:
                return self._extreme(argument, lowest=False)
            case Function.STRING:
                return self._string(argument)
            case _:
                assert_never(function)

    def _total(self, items: list[JsonValue]) -> Number | None:
        self.spend(len(items))
        total: Number | None = 0
        for item in items:
            total = _added(total, _number(item))
        return total

    def _extreme(self, items: JsonValue, *, lowest: bool) -> JsonValue:
        """The first of the lowest or highest, where all are numbers or all are texts."""
        if not isinstance(items, list) or not items:
            return None
        self.spend(len(items))
        is_text = isinstance(items[0], str)
        if any(not isinstance(each, str) if is_text else _number(each) is None for each in items):
            return None
        found = items[0]
        for each in items:
            if self._less(each, found) if lowest else self._less(found, each):
                found = each
        return found

    def _string(self, argument: JsonValue) -> str | None:
        """A text as it is, null as null, all else as JSON text."""
        if argument is None or isinstance(argument, str):
            return argument
        self.weigh(argument)
        try:
            text = canonical(argument)
        except MalformedMessage as error:
            raise _OverError from error
        self._read(text)
        return text

    def _read(self, text: str | None) -> None:
        self.spend(len(text or "") // TEXT_CHARS_A_STEP)


def _member(of: JsonValue, index: JsonValue) -> JsonValue:
    """A field of a map, an item of a list, counted from 0; null where there is none."""
    if isinstance(of, dict):
        return of.get(index) if isinstance(index, str) else None
    if not isinstance(of, list) or not isinstance(index, int) or isinstance(index, bool):
        return None
    return of[index] if 0 <= index < len(of) else None


def _number(of: JsonValue) -> Number | None:
    """*of*, where it is a number that JSON takes here: whole ones in 64 bits, others finite."""
    if isinstance(of, bool):
        return None
    if isinstance(of, int):
        return of if INTEGER_MIN <= of <= INTEGER_MAX else None
    return of if isinstance(of, float) and math.isfinite(of) else None


def _added(total: Number | None, number: Number | None) -> Number | None:
    return None if total is None or number is None else _number(total + number)
