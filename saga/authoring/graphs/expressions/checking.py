"""Whether an expression makes sense for the types of what it names, before anything runs.

Evaluating has a value for every mistake, most often null; here they are found. All of an
expression are told: what is wrong has the type of anything, so that nothing follows from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import assert_never

from saga.authoring.graphs.expressions.problems import Code, Problem, suggestion
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
    Sum,
    Template,
    Text,
    Whole,
    canonical,
    literal,
)
from saga.authoring.graphs.expressions.types import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    MAPS,
    NULL,
    NUMBERS,
    TEXT,
    Kind,
    Type,
    list_of,
)
from saga.core.values import value

SHOWN_CHARS_MAX = 60
_TEXTS_JOIN = '; texts are put together in a template, "${a}${b}"'
_SCALARS = frozenset((Kind.ANY, Kind.NULL, Kind.BOOL, Kind.INT, Kind.FLOAT, Kind.TEXT))


@value
class Unavailable:
    """A name that is known and may not be used here: why, and the code of that."""

    message: str
    code: str


Scope = Mapping[str, Type | Unavailable]


@value
class Checked:
    type: Type
    problems: tuple[Problem, ...]


def check(expression: Node | Template, scope: Scope, *, expected: Type = ANY) -> Checked:
    """The type of an expression over *scope*, and all that is wrong with it.

    Where the type is right in itself, and is not *expected*, that is a problem too.
    """
    checker = _Checker(scope)
    if isinstance(expression, Template) and expression.only is None:
        found, at, shown = checker.text(expression), 0, _shown(expression)
    else:
        root = expression.only if isinstance(expression, Template) else expression
        assert root is not None
        found, at, shown = checker.type(root), root.at, _shown(root)
    if not checker.problems and not fits(found, expected):
        problem = f"{shown} is {found}, expected {expected}"
        checker.problems.append(Problem(at, problem, Code.TYPE_MISMATCH))
    return Checked(found, tuple(sorted(checker.problems, key=lambda each: each.offset)))


def fits(found: Type, expected: Type) -> bool:
    """Whether a value of type *found* may be one of *expected*; null may be anywhere."""
    if Kind.ANY in {found.kind, expected.kind} or found.kind is Kind.NULL:
        return True
    if found.kind in MAPS and expected.kind in MAPS:
        return True
    if found.kind is Kind.LIST and expected.kind is Kind.LIST:
        return fits(found.of or ANY, expected.of or ANY)
    if found.kind is Kind.TEXT and expected.kind is Kind.TEXT:
        is_form = not expected.format or not found.format or found.format == expected.format
        choices, others = set(found.choices), set(expected.choices)
        return is_form and (not choices or not others or bool(choices & others))
    return found.kind is expected.kind or (found.kind, expected.kind) == (Kind.INT, Kind.FLOAT)


class _Checker:
    def __init__(self, scope: Scope) -> None:
        self.problems: list[Problem] = []
        self._scope = scope
        self._bound: dict[str, Type] = {}
        self._told: set[str] = set()

    def text(self, template: Template) -> Type:
        for part in template.parts:
            if isinstance(part, str):
                continue
            found = self.type(part)
            if found.kind not in _SCALARS:
                told = f"{_shown(part)} is {found}, in a text write string({_shown(part)})"
                self._mismatch(part, told)
        return TEXT

    def type(self, node: Node) -> Type:  # noqa: C901  # a case a node
        match node:
            case Constant(value=constant):
                return NULL if constant is None else BOOL
            case Whole():
                return INT
            case Text(value=text):
                return Type(Kind.TEXT, choices=(text,))
            case Name():
                return self._name(node)
            case Items(items=items):
                return list_of(joined(self.type(item) for item in items))
            case Field(of=of, name=name):
                return self._field(node, of, name)
            case Index(of=of, index=index):
                return self._index(node, of, index)
            case Macro():
                return self._macro(node)
            case Call(function=function, argument=argument):
                return self._call(function, argument)
            case Not(operand=operand):
                return self._logic("!", (operand,))
            case And(operands=operands):
                return self._logic("&&", operands)
            case Or(operands=operands):
                return self._logic("||", operands)
            case Negative(operand=operand):
                return self._arithmetic("-", (operand,))
            case Product(factors=factors):
                return self._arithmetic("*", factors)
            case Sum(first=first, rest=rest):
                signs = "/".join(sorted({sign.value for sign, _ in rest}))
                return self._arithmetic(signs, (first, *(term for _, term in rest)))
            case Comparison(left=left, operator=operator, right=right):
                self._compare(node, (left, self.type(left)), operator, (right, self.type(right)))
                return BOOL
            case Choice(condition=condition, chosen=chosen, otherwise=otherwise):
                self._logic("?", (condition,))
                return joined((self.type(chosen), self.type(otherwise)))
            case _:
                assert_never(node)

    def _name(self, node: Name) -> Type:
        if node.name in self._bound:
            return self._bound[node.name]
        found = self._scope.get(node.name)
        if isinstance(found, Type):
            return found
        if node.name not in self._told:
            self._told.add(node.name)
            if found is None:
                known = (name for name, each in self._scope.items() if isinstance(each, Type))
                told = f"`{node.name}` is not known here, {suggestion(node.name, known)}"
                self.problems.append(Problem(node.at, told, Code.UNKNOWN_NAME))
            else:
                self.problems.append(Problem(node.at, found.message, found.code))
        return ANY

    def _field(self, node: Node, of: Node, name: str) -> Type:
        base = self.type(of)
        match base.kind:
            case Kind.ANY:
                return ANY
            case Kind.MAP:
                return base.of or ANY
            case Kind.RECORD if name in base.fields:
                return base.fields[name]
            case Kind.RECORD if base.is_open:
                return ANY
            case Kind.RECORD:
                near = suggestion(name, base.fields)
                told = f"`{canonical(of)}` has no field `{name}`, {near}"
            case Kind.NULL if base.title:
                told = f"`{canonical(node)}`: {base.title}, so `{canonical(of)}` is null"
            case Kind.LIST:
                told = (
                    f"{_shown(of)} is a list: take an item, {_shown(of)}[0].{name}, or all of "
                    f"them, {_shown(of)}.map(x, x.{name})"
                )
            case _:
                told = f"{_shown(of)} is {base} and has no fields"
        self.problems.append(Problem(node.at, told, Code.NO_SUCH_FIELD))
        return ANY

    def _index(self, node: Index, of: Node, index: Node) -> Type:
        base, place = self.type(of), self.type(index)
        if base.kind is Kind.RECORD and isinstance(index, Text):
            return self._of_record(node, base, index.value)
        if base.kind is Kind.LIST:
            self._expect(index, place, Kind.INT, f"an item of {_shown(of)} has a number")
            return base.of or ANY
        if base.kind in MAPS:
            self._expect(index, place, Kind.TEXT, f"a field of {_shown(of)} has a name")
            return (base.of or ANY) if base.kind is Kind.MAP else ANY
        if base.kind not in {Kind.ANY, Kind.NULL}:
            self._mismatch(node, f"{_shown(of)} is {base}, [ ] looks into a list or a map")
        return ANY

    def _of_record(self, node: Index, base: Type, name: str) -> Type:
        if name not in base.fields and not base.is_open:
            near = suggestion(name, base.fields)
            told = f"{_shown(node.of)} has no field `{name}`, {near}"
            self.problems.append(Problem(node.at, told, Code.NO_SUCH_FIELD))
        return base.fields.get(name, ANY)

    def _macro(self, node: Macro) -> Type:
        base = self.type(node.of)
        if base.kind not in {Kind.LIST, Kind.ANY}:
            told = f"{_shown(node.of)} is {base}, `{node.macro.value}` goes over a list"
            self._mismatch(node, told)
            base = ANY
        outer = dict(self._bound)
        self._bound[node.variable] = base.of or ANY
        body = self.type(node.body)
        self._bound = outer
        if node.macro is MacroName.MAP:
            return list_of(body)
        self._expect(node.body, body, Kind.BOOL, f"`{node.macro.value}` asks for each item")
        return base if node.macro is MacroName.FILTER else BOOL

    def _call(self, function: Function, argument: Node) -> Type:
        found = self.type(argument)
        item = found.of or ANY
        match function:
            case Function.HAS:
                return BOOL
            case Function.STRING:
                return TEXT
            case Function.SIZE:
                if found.kind in {*NUMBERS, Kind.BOOL}:
                    told = f"{_shown(argument)} is {found}, size is that of a list, map or text"
                    self._mismatch(argument, told)
                return INT
            case Function.SUM | Function.MIN | Function.MAX:
                kinds = NUMBERS if function is Function.SUM else {*NUMBERS, Kind.TEXT}
                is_fit = item.kind in {*kinds, Kind.ANY, Kind.NULL}
                if found.kind not in {Kind.LIST, Kind.ANY, Kind.NULL} or not is_fit:
                    what = "numbers" if function is Function.SUM else "numbers, or of texts"
                    told = f"{_shown(argument)} is {found}, {function.value} takes a list of {what}"
                    self._mismatch(argument, told)
                    return ANY
                is_zero = function is Function.SUM and item.kind is Kind.NULL
                return INT if is_zero else item
            case _:
                assert_never(function)

    def _logic(self, operator: str, operands: Iterable[Node]) -> Type:
        for operand in operands:
            self._expect(operand, self.type(operand), Kind.BOOL, f"`{operator}` asks")
        return BOOL

    def _arithmetic(self, operator: str, operands: Iterable[Node]) -> Type:
        """The type of the number; the first operand that is none is told of."""
        types = [(operand, self.type(operand)) for operand in operands]
        for operand, found in types:
            if found.kind not in {*NUMBERS, Kind.ANY, Kind.NULL}:
                hint = _TEXTS_JOIN if operator == "+" and found.kind is Kind.TEXT else ""
                told = f"{_shown(operand)} is {found}, `{operator}` takes numbers{hint}"
                self._mismatch(operand, told)
                return ANY
        return joined(found for _, found in types)

    def _compare(
        self,
        node: Comparison,
        left: tuple[Node, Type],
        operator: Operator,
        right: tuple[Node, Type],
    ) -> None:
        both = f"{_shown(left[0])} is {left[1]}, {_shown(right[0])} is {right[1]}"
        if operator is Operator.IN:
            self._check_in(node, left, right)
        elif operator in {Operator.EQUAL, Operator.UNEQUAL}:
            if not _may_be_equal(left[1], right[1]):
                cure = _cure(left, right) or _cure(right, left)
                self._mismatch(node, _few(left, right) or f"{both}: the two are never equal{cure}")
        elif "date-time" in {left[1].format, right[1].format}:
            self._mismatch(node, f"{both}: the order of such texts is not that of time")
        elif not _have_order(left[1], right[1]):
            cure = _cure(left, right) or _cure(right, left)
            self._mismatch(node, f"{both}: `{operator.value}` is never true of them{cure}")

    def _check_in(
        self, node: Comparison, left: tuple[Node, Type], right: tuple[Node, Type]
    ) -> None:
        item, among = left[1], right[1]
        match among.kind:
            case Kind.ANY | Kind.NULL:
                return
            case Kind.LIST:
                if not _may_be_equal(item, among.of or ANY):
                    told = f"{_shown(left[0])} is {item}, {_shown(right[0])} is {among}"
                    self._mismatch(node, f"{told}: it is never in there")
            case Kind.TEXT | Kind.MAP | Kind.RECORD:
                self._expect(left[0], item, Kind.TEXT, f"`in` {among.kind.value} looks for a text")
            case _:
                told = f"{_shown(right[0])} is {among}, `in` looks into a list, a map or a text"
                self._mismatch(right[0], told)

    def _expect(self, node: Node, found: Type, kind: Kind, why: str) -> None:
        if found.kind not in {kind, Kind.ANY, Kind.NULL}:
            self._mismatch(node, f"{_shown(node)} is {found}, {why}: expected {kind.value}")

    def _mismatch(self, node: Node, message: str) -> None:
        self.problems.append(Problem(node.at, message, Code.TYPE_MISMATCH))


def joined(types: Iterable[Type]) -> Type:
    """What is known where any of them may be."""
    return reduce(_either, types, NULL)


def _either(one: Type, other: Type) -> Type:
    if one.kind is Kind.NULL:
        return other
    if other.kind is Kind.NULL or one == other:
        return one
    if {one.kind, other.kind} == NUMBERS:
        return FLOAT
    if one.kind is other.kind is Kind.TEXT:
        both = (*one.choices, *other.choices) if one.choices and other.choices else ()
        return Type(Kind.TEXT, choices=both)
    if one.kind is other.kind is Kind.LIST:
        return list_of(_either(one.of or ANY, other.of or ANY))
    return ANY


def _may_be_equal(one: Type, other: Type) -> bool:
    kinds = {one.kind, other.kind}
    if kinds & {Kind.ANY, Kind.NULL} or kinds <= NUMBERS or kinds <= MAPS:
        return True
    if one.kind is other.kind is Kind.TEXT and one.choices and other.choices:
        return bool(set(one.choices) & set(other.choices))
    if one.kind is other.kind is Kind.LIST:
        return True
    return one.kind is other.kind


def _have_order(one: Type, other: Type) -> bool:
    kinds = {one.kind, other.kind} - {Kind.ANY, Kind.NULL}
    return kinds <= NUMBERS or kinds == {Kind.TEXT}


def _few(left: tuple[Node, Type], right: tuple[Node, Type]) -> str:
    """What is said of a text that is none of those it is compared with."""
    for (text, _), (other, kind) in ((left, right), (right, left)):
        if isinstance(text, Text) and not isinstance(other, Text) and kind.choices:
            known = suggestion(text.value, kind.choices)
            return f"{_shown(other)} is never {_shown(text)}, {known}"
    return ""


def _cure(literal_side: tuple[Node, Type], other: tuple[Node, Type]) -> str:
    """How a literal is written as what it is compared with."""
    node, kind = literal_side[0], other[1].kind
    if isinstance(node, Text) and kind in NUMBERS and node.value.isdecimal():
        return f"; write {node.value}"
    if isinstance(node, Text) and kind is Kind.BOOL and node.value in {"true", "false"}:
        return f"; write {node.value}"
    if isinstance(node, Whole | Constant) and kind is Kind.TEXT and not other[1].choices:
        return f"; write {literal(canonical(node))}"
    return ""


def _shown(expression: Node | Template) -> str:
    text = canonical(expression)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"
