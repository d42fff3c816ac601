"""From a text to a tree: one method a line of the grammar, one token ahead.

The length is looked at first, then how deep brackets and branches lie while reading, then how deep
the tree is: no text makes it recurse deeper than `LEVELS_MAX` brackets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from saga.authoring.graphs.expressions.lexer import Kind, Token, refused, tokens
from saga.authoring.graphs.expressions.problems import (
    Code,
    ExpressionError,
    Problem,
    suggestion,
)
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
    children,
)

CHARS_MAX = 1_000
"""Of one expression."""
LEVELS_MAX = 20
"""How deep a tree may be, and how many brackets may lie within each other."""
MACROS_MAX = 2
"""How many macros may lie within each other: work grows with the square of the data at most."""
_CONSTANTS = {"true": True, "false": False, "null": None}
_RESERVED = frozenset((*_CONSTANTS, "in"))
_FUNCTIONS = frozenset(Function)
_MACROS = frozenset(MacroName)
_OPERATORS = frozenset(Operator)
_WORDS = {"and": "&&", "or": "||", "is": "==", "if": "? :", "else": "? :"}


def parse(text: str, *, chars_max: int = CHARS_MAX) -> Node:
    """The tree of *text*, which is an expression as it stands.

    Raises:
        ExpressionError: it is none, it holds `${`, or it is too long or too deep.
    """
    return _parse(text, 0, len(text), chars_max)


def parse_template(text: str) -> Template:
    """The parts of *text*, in which `${…}` are expressions; a text without them is one part.

    A text that needs the two characters themselves says `${"$"}{`.

    Raises:
        ExpressionError: as `parse` does, or `}` is missing.
    """
    parts: list[str | Node] = []
    at = 0
    while (begin := text.find("${", at)) >= 0:
        if begin > at:
            parts.append(text[at:begin])
        end = _end(text, begin + 2)
        parts.append(_parse(text, begin + 2, end, CHARS_MAX))
        at = end + 1
    if at < len(text) or not parts:
        parts.append(text[at:])
    return Template(tuple(parts))


def _end(text: str, begin: int) -> int:
    """Where the `}` is that closes the expression at *begin*: the first outside of quotes."""
    quote, at = "", begin
    while at < len(text):
        character = text[at]
        if quote and character == "\\":
            at += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "}":
            return at
        at += 1
    raise refused(text, begin - 2, "`${` is not closed, expected `}`")


def _parse(text: str, begin: int, end: int, chars_max: int) -> Node:
    """The tree of that part of *text*; all places count from its beginning."""
    if end - begin > chars_max:
        message = f"the expression has {end - begin} characters, {chars_max} at most"
        raise ExpressionError(Problem(begin, message, Code.EXPRESSION_LIMIT))
    if (at := text.find("${", begin, end)) >= 0:
        raise refused(
            text, at, "this is an expression as it stands, without ${…}", Code.NO_TEMPLATE_HERE
        )
    tree = _Parser(text, begin, end).whole()
    _check_depth(text, tree)
    return tree


def _check_depth(text: str, tree: Node) -> None:
    layer: list[Node] = [tree]
    for _ in range(LEVELS_MAX):
        layer = [child for node in layer for child in children(node)]
    if layer:
        raise _too_deep(text, layer[0].at)


def _too_deep(text: str, at: int) -> ExpressionError:
    return refused(
        text, at, f"more than {LEVELS_MAX} levels within each other", Code.EXPRESSION_LIMIT
    )


class _Parser:
    def __init__(self, text: str, begin: int, end: int) -> None:
        self._text = text
        self._tokens = tokens(text, begin, end)
        self._next = 0
        self._level = 0
        self._macros = 0

    def whole(self) -> Node:
        tree = self._expression()
        if self._ahead.kind is not Kind.END:
            raise self._refused_rest()
        return tree

    @property
    def _ahead(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._ahead
        self._next += token.kind is not Kind.END
        return token

    def _sees(self, *symbols: str) -> bool:
        return self._ahead.kind is Kind.SYMBOL and self._ahead.text in symbols

    def _accept(self, *symbols: str) -> Token | None:
        return self._take() if self._sees(*symbols) else None

    def _expect(self, symbol: str) -> Token:
        if (token := self._accept(symbol)) is None:
            raise self._refused(f"expected `{symbol}`")
        return token

    def _refused(self, expected: str) -> ExpressionError:
        found = self._ahead
        return refused(self._text, found.at, f"{expected}, found {found.shown}")

    def _refused_rest(self) -> ExpressionError:
        found = self._ahead
        if self._compares(found):
            return self._refused("comparisons do not chain, put one into parentheses")
        if found.kind is Kind.NAME and found.text in _WORDS:
            return self._refused(f"expected an operator, `{_WORDS[found.text]}`")
        return self._refused("expected an operator or the end")

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._level += 1
        if self._level > LEVELS_MAX:
            raise _too_deep(self._text, self._ahead.at)
        yield
        self._level -= 1

    def _expression(self) -> Node:
        condition = self._or()
        if self._accept("?") is None:
            return condition
        with self._deeper():
            chosen = self._expression()
            self._expect(":")
            otherwise = self._expression()
        return Choice(condition, chosen, otherwise, condition.at)

    def _or(self) -> Node:
        operands = [self._and()]
        while self._accept("||"):
            operands.append(self._and())
        return operands[0] if len(operands) == 1 else Or(tuple(operands), operands[0].at)

    def _and(self) -> Node:
        operands = [self._comparison()]
        while self._accept("&&"):
            operands.append(self._comparison())
        return operands[0] if len(operands) == 1 else And(tuple(operands), operands[0].at)

    def _comparison(self) -> Node:
        left = self._sum()
        if not self._compares(self._ahead):
            return left
        operator = Operator(self._take().text)
        return Comparison(left, operator, self._sum(), left.at)

    def _compares(self, token: Token) -> bool:
        return token.kind in {Kind.SYMBOL, Kind.NAME} and token.text in _OPERATORS

    def _sum(self) -> Node:
        first = self._product()
        rest = []
        while sign := self._accept("+", "-"):
            rest.append((Sign(sign.text), self._product()))
        return Sum(first, tuple(rest), first.at) if rest else first

    def _product(self) -> Node:
        factors = [self._unary()]
        while self._accept("*"):
            factors.append(self._unary())
        return factors[0] if len(factors) == 1 else Product(tuple(factors), factors[0].at)

    def _unary(self) -> Node:
        signs = []
        while sign := self._accept("!", "-"):
            signs.append(sign)
        node = self._postfix()
        for sign in reversed(signs):
            node = Not(node, sign.at) if sign.text == "!" else Negative(node, sign.at)
        return node

    def _postfix(self) -> Node:
        node = self._primary()
        while True:
            if self._accept("["):
                with self._deeper():
                    index = self._expression()
                self._expect("]")
                node = Index(node, index, node.at)
            elif self._accept("."):
                node = self._selection(node)
            else:
                return node

    def _selection(self, of: Node) -> Node:
        if self._ahead.kind is not Kind.NAME:
            raise self._refused("expected the name of a field")
        name = self._take()
        if not self._sees("("):
            return Field(of, name.text, of.at)
        if name.text in _MACROS:
            return self._macro(of, name)
        if name.text in _FUNCTIONS:
            raise refused(self._text, name.at, f"`{name.text}` stands before: {name.text}(…)")
        unknown = f"no macro `{name.text}`, {suggestion(name.text, _MACROS)}"
        raise refused(self._text, name.at, unknown)

    def _macro(self, of: Node, name: Token) -> Node:
        if not _came_in_a_message(of):
            told = f"`{name.text}` goes over lists that came in a message, not over others"
            raise refused(self._text, of.at, told, Code.EXPRESSION_LIMIT)
        if self._macros == MACROS_MAX:
            told = f"more than {MACROS_MAX} macros within each other"
            raise refused(self._text, name.at, told, Code.EXPRESSION_LIMIT)
        self._expect("(")
        if self._ahead.kind is not Kind.NAME or self._ahead.text in _RESERVED:
            raise self._refused("expected a name for each item")
        variable = self._take().text
        self._expect(",")
        self._macros += 1
        with self._deeper():
            body = self._expression()
        self._macros -= 1
        self._expect(")")
        return Macro(of, MacroName(name.text), variable, body, of.at)

    def _primary(self) -> Node:
        token = self._ahead
        match token.kind:
            case Kind.WHOLE:
                return Whole(int(self._take().text), token.at)
            case Kind.TEXT:
                return Text(self._take().content, token.at)
            case Kind.NAME if token.text != "in":
                return self._named()
            case Kind.SYMBOL if token.text == "(":
                self._take()
                with self._deeper():
                    node = self._expression()
                self._expect(")")
                return node
            case Kind.SYMBOL if token.text == "[":
                return self._items()
            case _:
                raise self._refused("expected a value")

    def _named(self) -> Node:
        token = self._take()
        if token.text in _CONSTANTS:
            return Constant(_CONSTANTS[token.text], token.at)
        if not self._sees("("):
            return Name(token.text, token.at)
        if token.text not in _FUNCTIONS:
            known = suggestion(token.text, _FUNCTIONS)
            raise refused(self._text, token.at, f"no function `{token.text}`, {known}")
        self._take()
        with self._deeper():
            argument = self._expression()
        self._expect(")")
        return Call(Function(token.text), argument, token.at)

    def _items(self) -> Node:
        begin = self._take()
        items: list[Node] = []
        with self._deeper():
            while not self._sees("]"):
                items.append(self._expression())
                if self._accept(",") is None:
                    break
                if self._sees("]"):
                    raise self._refused("expected a value")
        if self._accept("]") is None:
            raise self._refused("expected `,` or `]`")
        return Items(tuple(items), begin.at)


def _came_in_a_message(node: Node) -> bool:
    """Whether *node* is a name, something in it, or what a macro made of it."""
    while isinstance(node, Field | Index | Macro):
        node = node.of
    return isinstance(node, Name)
