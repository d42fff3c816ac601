"""What is an expression, what is none, and where the mistake is."""

import pytest

from saga.authoring.graphs.expressions import (
    CHARS_MAX,
    LEVELS_MAX,
    Code,
    ExpressionError,
    canonical,
    names,
    parse,
    parse_template,
)
from saga.authoring.graphs.expressions.tree import (
    And,
    Choice,
    Comparison,
    Constant,
    Field,
    Index,
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
    Text,
    Whole,
)

A, B, C = Name("a"), Name("b"), Name("c")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a || b && c", Or((A, And((B, C))))),
        ("(a || b) && c", And((Or((A, B)), C))),
        ("a + b * c", Sum(A, ((Sign.PLUS, Product((B, C))),))),
        ("a - b - c", Sum(A, ((Sign.MINUS, B), (Sign.MINUS, C)))),
        ("a - (b - c)", Sum(A, ((Sign.MINUS, Sum(B, ((Sign.MINUS, C),))),))),
        ("!a == b", Comparison(Not(A), Operator.EQUAL, B)),
        ("-a.b", Negative(Field(A, "b"))),
        ("a in b ? a : b ? b : c", Choice(Comparison(A, Operator.IN, B), A, Choice(B, B, C))),
        ("a[0].in", Field(Index(A, Whole(0)), "in")),
        ("a.map", Field(A, "map")),
        ("a.map(x, x)", Macro(A, MacroName.MAP, "x", Name("x"))),
        ("size == 'it\\'s'", Comparison(Name("size"), Operator.EQUAL, Text("it's"))),
        ("true ? null : 0", Choice(Constant(value=True), Constant(None), Whole(0))),
        ("'\\u00e4\\ud83d\\ude00\\n'", Text("ä😀\n")),
    ],
)
def test_operators_bind_as_in_cel(text, tree):
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("", 0, "expected a value, found the end"),
        (
            "placed.amount > && true",
            16,
            "expected a value, found `&&`: `placed.amount > && true`",
        ),
        ("a < b == c", 6, "comparisons do not chain, put one into parentheses, found `==`"),
        ("a and b", 2, "expected an operator, `&&`, found `and`"),
        ("a b", 2, "expected an operator or the end, found `b`"),
        ("a = b", 2, "`=` is of no use here, compare with `==`"),
        ("a / b", 2, "`/` is of no use here, there is no division"),
        ("a.1", 2, "expected the name of a field, found `1`"),
        ("1.5", 0, "numbers are whole here"),
        ("010", 0, "a number has no leading zero"),
        ("a == 18446744073709551616", 5, "the number is above 18446744073709551615"),
        ("9" * 5_000 + "!", 0, "the expression has 5001 characters, 1000 at most"),
        ("5a", 0, "a number is followed by letters"),
        ("'a", 0, "a text is not closed, expected '"),
        ("'a\\", 2, "unknown escape"),
        ("'a\\'", 0, "a text is not closed"),
        ("'\\q'", 1, "unknown escape"),
        ("'\\u12'", 1, "\\u wants four hexadecimal digits"),
        ("'\\ud800'", 1, "one half of a surrogate pair"),
        ("'\\udc00\\ud800'", 1, "one half of a surrogate pair"),
        ("'\\ud800\\u0041'", 1, "one half of a surrogate pair"),
        ("'\ud800'", 1, "a text holds U+D800, write it as an escape"),
        ("'a\tb'", 2, "a text holds U+0009, write it as an escape"),
        ("'\u202e'", 1, "a text holds U+202E, write it as an escape"),
        ("\u202e", 0, "U+202E is of no use here"),
        ("sise(a)", 0, "no function `sise`, did you mean `size`"),
        ("a.size()", 2, "`size` stands before"),
        ("a.mop(x, x)", 2, "no macro `mop`, did you mean `map`"),
        ("a.map(in, a)", 6, "expected a name for each item, found `in`"),
        ("[a,]", 3, "expected a value, found `]`"),
        ("[a b]", 3, "expected `,` or `]`, found `b`"),
        ("(a", 2, "expected `)`, found the end"),
        ("__import__('os')", 0, "no function `__import__`"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text, offset, message):
    with pytest.raises(ExpressionError) as refused:
        parse(text)

    assert refused.value.problem.message.startswith(message)
    assert refused.value.problem.offset == offset


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a && b" + " " * CHARS_MAX, Code.EXPRESSION_LIMIT),
        ("(" * (LEVELS_MAX + 1) + "a", Code.EXPRESSION_LIMIT),
        ("a" + ".b" * LEVELS_MAX, Code.EXPRESSION_LIMIT),
        ("!" * 999 + "a", Code.EXPRESSION_LIMIT),
        ("a ? " * 200 + "a", Code.EXPRESSION_LIMIT),
        ("a.map(x, x.map(y, y.map(z, z)))", Code.EXPRESSION_LIMIT),
        ("[1].map(x, x)", Code.EXPRESSION_LIMIT),
        ("(a ? b : c).map(x, x)", Code.EXPRESSION_LIMIT),
        ("a == '${b}'", Code.NO_TEMPLATE_HERE),
        ("${a} == b", Code.NO_TEMPLATE_HERE),
        ("a &&", Code.SYNTAX),
    ],
)
def test_limits_have_codes(text, code):
    with pytest.raises(ExpressionError) as refused:
        parse(text)

    assert refused.value.problem.code == code


@pytest.mark.parametrize(
    "text",
    [
        " && ".join(["a"] * 160),
        "+".join(["1"] * 500),
        "a" + ".b" * (LEVELS_MAX - 1),
        "(" * LEVELS_MAX + "a" + ")" * LEVELS_MAX,
        "a.filter(x, x.b).map(x, x.c.exists(y, y > 1)).all(x, x)",
        "a.b[0].map(x, x)",
    ],
)
def test_what_is_within_the_limits_is_read(text):
    assert parse(canonical(parse(text)), chars_max=2 * CHARS_MAX) == parse(text)


@pytest.mark.parametrize(
    ("text", "canonical_text"),
    [
        ("a&&  b\n||c", "a && b || c"),
        ("((a))", "a"),
        ("(a && b) && c", "(a && b) && c"),
        ("a-(b+c)*-d", "a - (b + c) * -d"),
        ("(a?b:c)?d:e", "(a ? b : c) ? d : e"),
        ("a['b'][ 0 ]", 'a["b"][0]'),
        ("'\\u202e\"\\u0024{'", '"\\u202e\\"\\u0024{"'),
        ("(a+b).c", "(a + b).c"),
        ("!(a in [ ])", "!(a in [])"),
    ],
)
def test_spellings_of_one_tree_have_one_text(text, canonical_text):
    assert canonical(parse(text)) == canonical_text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("",)),
        ("no template", ("no template",)),
        ("${a}", (A,)),
        ("x ${a} y", ("x ", A, " y")),
        ("${a}${b}", (A, B)),
        ("${'}'}", (Text("}"),)),
        ("$${a}}", ("$", A, "}")),
        ("${'$'}{a}", (Text("$"), "{a}")),
    ],
)
def test_a_template_is_texts_and_expressions(text, parts):
    template = parse_template(text)

    assert template.parts == parts
    assert parse_template(canonical(template)) == template


@pytest.mark.parametrize(
    ("text", "offset", "code"),
    [
        ("${", 0, Code.SYNTAX),
        ("${a", 0, Code.SYNTAX),
        ("${a} ${'}", 5, Code.SYNTAX),
        ("ab ${}", 5, Code.SYNTAX),
        ("ab ${ 1 + }", 10, Code.SYNTAX),
        ("ab ${a == '${b}'}", 11, Code.NO_TEMPLATE_HERE),
        ("ab ${'" + "c" * CHARS_MAX + "'}", 5, Code.EXPRESSION_LIMIT),
    ],
)
def test_a_mistake_in_a_template_has_its_place_in_the_whole(text, offset, code):
    with pytest.raises(ExpressionError) as refused:
        parse_template(text)

    assert (refused.value.problem.offset, refused.value.problem.code) == (offset, code)


def test_a_long_text_around_short_expressions_is_read_once():
    assert len(parse_template("${a}b" * 50_000).parts) == 100_000


def test_names_are_what_data_must_be_given_for():
    tree = parse("b.filter(x, x.size > a && x in c).map(a, a) == d[b]")

    assert [(name.name, name.at) for name in names(tree)] == [
        ("b", 0),
        ("a", 21),
        ("c", 31),
        ("d", 47),
    ]
    assert [name.name for name in names(parse_template("x ${a.b} ${c}"))] == ["a", "c"]
