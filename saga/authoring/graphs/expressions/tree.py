"""The syntax tree of an expression, the names it uses, and its one canonical text.

Nodes are equal by what they say: *at*, their place in the text, is left out. Operators that may
stand in a row have one node for the whole row, so that a long row is not deep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from enum import StrEnum
from typing import TypeAlias, assert_never

from saga.core.values import value


class Function(StrEnum):
    HAS = "has"
    SIZE = "size"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    STRING = "string"


class MacroName(StrEnum):
    ALL = "all"
    EXISTS = "exists"
    FILTER = "filter"
    MAP = "map"


class Operator(StrEnum):
    """What compares two values."""

    EQUAL = "=="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    IN = "in"


class Sign(StrEnum):
    PLUS = "+"
    MINUS = "-"


@value
class Constant:
    """`true`, `false` or `null`."""

    value: bool | None
    at: int = field(default=0, compare=False)


@value
class Whole:
    value: int
    at: int = field(default=0, compare=False)


@value
class Text:
    value: str
    at: int = field(default=0, compare=False)


@value
class Name:
    name: str
    at: int = field(default=0, compare=False)


@value
class Items:
    """A list, written out."""

    items: tuple[Node, ...]
    at: int = field(default=0, compare=False)


@value
class Field:
    of: Node
    name: str
    at: int = field(default=0, compare=False)


@value
class Index:
    of: Node
    index: Node
    at: int = field(default=0, compare=False)


@value
class Macro:
    """*body* for each item of *of*, under the name *variable*."""

    of: Node
    macro: MacroName
    variable: str
    body: Node
    at: int = field(default=0, compare=False)


@value
class Call:
    function: Function
    argument: Node
    at: int = field(default=0, compare=False)


@value
class Not:
    operand: Node
    at: int = field(default=0, compare=False)


@value
class Negative:
    operand: Node
    at: int = field(default=0, compare=False)


@value
class Product:
    factors: tuple[Node, ...]
    at: int = field(default=0, compare=False)


@value
class Sum:
    first: Node
    rest: tuple[tuple[Sign, Node], ...]
    at: int = field(default=0, compare=False)


@value
class Comparison:
    left: Node
    operator: Operator
    right: Node
    at: int = field(default=0, compare=False)


@value
class And:
    operands: tuple[Node, ...]
    at: int = field(default=0, compare=False)


@value
class Or:
    operands: tuple[Node, ...]
    at: int = field(default=0, compare=False)


@value
class Choice:
    """`condition ? chosen : otherwise`."""

    condition: Node
    chosen: Node
    otherwise: Node
    at: int = field(default=0, compare=False)


Node: TypeAlias = (
    Constant
    | Whole
    | Text
    | Name
    | Items
    | Field
    | Index
    | Macro
    | Call
    | Not
    | Negative
    | Product
    | Sum
    | Comparison
    | And
    | Or
    | Choice
)


@value
class Template:
    """A text with expressions in it; one expression and nothing else keeps its type."""

    parts: tuple[str | Node, ...]

    @property
    def only(self) -> Node | None:
        """The expression, where there is nothing beside it."""
        if len(self.parts) == 1 and not isinstance(self.parts[0], str):
            return self.parts[0]
        return None


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Constant() | Whole() | Text() | Name():
            return ()
        case Items(items=nodes) | Product(factors=nodes):
            return nodes
        case And(operands=nodes) | Or(operands=nodes):
            return nodes
        case Field(of=of):
            return (of,)
        case Index(of=of, index=index):
            return (of, index)
        case Macro(of=of, body=body):
            return (of, body)
        case Call(argument=operand) | Not(operand=operand) | Negative(operand=operand):
            return (operand,)
        case Sum(first=first, rest=rest):
            return (first, *(term for _, term in rest))
        case Comparison(left=left, right=right):
            return (left, right)
        case Choice(condition=condition, chosen=chosen, otherwise=otherwise):
            return (condition, chosen, otherwise)
        case _:
            assert_never(node)


def names(expression: Node | Template) -> tuple[Name, ...]:
    """The names that data must be given for, each where it stands first; no variables of macros."""
    roots = _expressions(expression)
    found: dict[str, Name] = {}
    for root in roots:
        for name in _free(root, frozenset()):
            found.setdefault(name.name, name)
    return tuple(found.values())


def canonical(expression: Node | Template) -> str:
    """The one text of all spellings that have this tree: blanks, quotes and parentheses set."""
    if isinstance(expression, Template):
        return "".join(
            part if isinstance(part, str) else f"${{{_written(part)}}}" for part in expression.parts
        )
    return _written(expression)


def literal(text: str) -> str:
    """*text* as it is written in an expression."""
    characters = (_ESCAPED.get(each, each) for each in text)
    quoted = "".join(f"\\u{ord(each):04x}" if is_hidden(each) else each for each in characters)
    return f'"{quoted.replace("${", _DOLLAR_BRACE)}"'


def is_hidden(character: str) -> bool:
    """Whether nobody sees it: a control character, half a pair, or one that turns the direction."""
    return (
        character < " "
        or "\x7f" <= character <= "\x9f"
        or character in _TURNS
        or ("\ud800" <= character <= "\udfff")
    )


_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DOLLAR_BRACE = "\\u0024{"
_TURNS = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_CHOICE, _OR, _AND, _COMPARISON, _SUM, _PRODUCT, _UNARY, _POSTFIX = range(8)


def _expressions(expression: Node | Template) -> tuple[Node, ...]:
    if isinstance(expression, Template):
        return tuple(part for part in expression.parts if not isinstance(part, str))
    return (expression,)


def _free(node: Node, bound: frozenset[str]) -> Iterator[Name]:
    match node:
        case Name(name=name):
            if name not in bound:
                yield node
        case Macro(of=of, variable=variable, body=body):
            yield from _free(of, bound)
            yield from _free(body, bound | {variable})
        case _:
            for child in children(node):
                yield from _free(child, bound)


def _written(node: Node) -> str:  # noqa: C901  # a case a node
    match node:
        case Constant(value=constant):
            return {None: "null", True: "true", False: "false"}[constant]
        case Whole(value=number):
            return str(number)
        case Text(value=text):
            return literal(text)
        case Name(name=name):
            return name
        case Items(items=items):
            return f"[{', '.join(map(_written, items))}]"
        case Field(of=of, name=name):
            return f"{_within(of, _POSTFIX)}.{name}"
        case Index(of=of, index=index):
            return f"{_within(of, _POSTFIX)}[{_written(index)}]"
        case Macro(of=of, macro=macro, variable=variable, body=body):
            return f"{_within(of, _POSTFIX)}.{macro.value}({variable}, {_written(body)})"
        case Call(function=function, argument=argument):
            return f"{function.value}({_written(argument)})"
        case Not(operand=operand):
            return f"!{_within(operand, _UNARY)}"
        case Negative(operand=operand):
            return f"-{_within(operand, _UNARY)}"
        case Product(factors=factors):
            return " * ".join(_within(factor, _UNARY) for factor in factors)
        case Sum(first=first, rest=rest):
            terms = (f" {sign.value} {_within(term, _PRODUCT)}" for sign, term in rest)
            return _within(first, _PRODUCT) + "".join(terms)
        case Comparison(left=left, operator=operator, right=right):
            return f"{_within(left, _SUM)} {operator.value} {_within(right, _SUM)}"
        case And(operands=operands):
            return " && ".join(_within(operand, _COMPARISON) for operand in operands)
        case Or(operands=operands):
            return " || ".join(_within(operand, _AND) for operand in operands)
        case Choice(condition=condition, chosen=chosen, otherwise=otherwise):
            branches = f"{_written(chosen)} : {_written(otherwise)}"
            return f"{_within(condition, _OR)} ? {branches}"
        case _:
            assert_never(node)


def _within(node: Node, lowest: int) -> str:
    text = _written(node)
    return text if _precedence(node) >= lowest else f"({text})"


def _precedence(node: Node) -> int:
    match node:
        case Choice():
            return _CHOICE
        case Or():
            return _OR
        case And():
            return _AND
        case Comparison():
            return _COMPARISON
        case Sum():
            return _SUM
        case Product():
            return _PRODUCT
        case Not() | Negative():
            return _UNARY
        case _:
            return _POSTFIX
