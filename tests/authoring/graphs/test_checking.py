"""Mistakes that an evaluation has a value for are found before it."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, RootModel

from saga.authoring.graphs.expressions import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    LIST,
    NULL,
    TEXT,
    Code,
    Kind,
    Unavailable,
    check,
    fits,
    list_of,
    nothing,
    parse,
    parse_template,
    record,
    type_of_model,
    type_of_schema,
)


class Line(BaseModel):
    price: int
    weight: float = 0.0
    tags: list[str] = []
    parent: "Line | None" = None


class Placed(BaseModel):
    amount: int
    currency: str
    note: str | None = None
    status: Literal["open", "paid"] = "open"
    day: date
    at: datetime
    id: UUID
    lines: list[Line]
    rates: dict[str, float]
    anything: Any = None
    either: int | str = 0
    exact: Decimal = Decimal(0)
    pair: tuple[int, str] = (0, "")


class Nested(RootModel[list["Nested"]]):
    """A type that never ends."""


SCOPE = {
    "placed": type_of_model(Placed),
    "ship": nothing("parcels.ship has no reply of its own"),
    "offer": list_of(record("OfferMade", {"price": INT, "note": TEXT})),
    "approval": record("approval", {"granted": BOOL}),
    "pay": Unavailable("`pay` is not before `approval`: add it to depends_on", "not-a-dependency"),
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("placed.amount > 500 && approval.granted", BOOL),
        ("placed.lines.map(x, x.price)", list_of(INT)),
        ("placed.lines.map(x, x.price * x.weight)", list_of(FLOAT)),
        ("sum(placed.lines.map(x, x.weight))", FLOAT),
        ("min(offer.map(o, o.price))", INT),
        ("min(offer.filter(o, o.price > 1).map(o, o.note))", TEXT),
        ("placed.lines[0].parent.parent.tags[0]", TEXT),
        ("placed.rates['EUR']", FLOAT),
        ("placed.rates.EUR", FLOAT),
        ("placed['amount']", INT),
        ("placed.anything.whatever[0]", ANY),
        ("placed.either", ANY),
        ("placed.pair[1]", ANY),
        ("placed.exact", TEXT),
        ("ship == null ? 1 : null", INT),
        ("placed.note == null || placed.note in ['a', 'b']", BOOL),
        ("size(placed.note) + 1", INT),
        ("placed.day < '2030-01-01'", BOOL),
        ("[1, placed.lines[0].weight]", list_of(FLOAT)),
        ("'EUR' in placed.rates", BOOL),
        ("placed.lines.exists(x, placed.lines.all(y, y.price <= x.price))", BOOL),
        ("placed.lines[0].parent == placed.lines[1].parent", BOOL),
        ("(approval.granted ? placed.lines : placed.lines)[0].price", INT),
        ("string(placed)", TEXT),
        ("null", NULL),
    ],
)
def test_the_type_of_an_expression_is_that_of_its_contracts(text, found):
    checked = check(parse(text), SCOPE)

    assert checked.problems == ()
    assert checked.type == found


@pytest.mark.parametrize(
    ("text", "offset", "code", "message"),
    [
        (
            "plased.amount",
            0,
            Code.UNKNOWN_NAME,
            "`plased` is not known here, did you mean `placed`?",
        ),
        (
            *("true && pay.receipt == 'a'", 8, "not-a-dependency"),
            "`pay` is not before `approval`: add it to depends_on",
        ),
        (
            *("placed.amont", 0, Code.NO_SUCH_FIELD),
            "`placed` has no field `amont`, did you mean `amount`?",
        ),
        (
            *("ship.tracking", 0, Code.NO_SUCH_FIELD),
            "`ship.tracking`: parcels.ship has no reply of its own, so `ship` is null",
        ),
        (
            *("placed.lines.price", 0, Code.NO_SUCH_FIELD),
            (
                "placed.lines is a list: take an item, placed.lines[0].price, or all of them, "
                "placed.lines.map(x, x.price)"
            ),
        ),
        (
            *("placed.amount.value", 0, Code.NO_SUCH_FIELD),
            "placed.amount is int and has no fields",
        ),
        (
            *("true || placed.amount == '500'", 8, Code.TYPE_MISMATCH),
            'placed.amount is int, "500" is text: the two are never equal; write 500',
        ),
        (
            *("placed.currency != 500", 0, Code.TYPE_MISMATCH),
            'placed.currency is text, 500 is int: the two are never equal; write "500"',
        ),
        (
            *("placed.status == 'payd'", 0, Code.TYPE_MISMATCH),
            'placed.status is never "payd", did you mean `paid`?',
        ),
        (
            *("placed.currency < 5", 0, Code.TYPE_MISMATCH),
            'placed.currency is text, 5 is int: `<` is never true of them; write "5"',
        ),
        (
            *("placed.at < '2030'", 0, Code.TYPE_MISMATCH),
            (
                'placed.at is text (date-time), "2030" is text: '
                "the order of such texts is not that of time"
            ),
        ),
        (
            *("approval.granted < true", 0, Code.TYPE_MISMATCH),
            "approval.granted is true or false, true is true or false: `<` is never true of them",
        ),
        (
            *("placed.currency + '!'", 0, Code.TYPE_MISMATCH),
            (
                "placed.currency is text, `+` takes numbers; texts are put together in a template, "
                '"${a}${b}"'
            ),
        ),
        (
            *("placed.amount && true", 0, Code.TYPE_MISMATCH),
            "placed.amount is int, `&&` asks: expected true or false",
        ),
        (
            *("!placed.note", 1, Code.TYPE_MISMATCH),
            "placed.note is text, `!` asks: expected true or false",
        ),
        (
            *("1 in placed.lines[0].tags", 0, Code.TYPE_MISMATCH),
            "1 is int, placed.lines[0].tags is a list of text: it is never in there",
        ),
        (
            *("1 in placed.amount", 5, Code.TYPE_MISMATCH),
            "placed.amount is int, `in` looks into a list, a map or a text",
        ),
        (
            *("placed.map(x, x)", 0, Code.TYPE_MISMATCH),
            "placed is Placed, `map` goes over a list",
        ),
        (
            *("placed.lines.filter(x, x.price)", 23, Code.TYPE_MISMATCH),
            "x.price is int, `filter` asks for each item: expected true or false",
        ),
        (
            *("sum(placed.lines)", 4, Code.TYPE_MISMATCH),
            "placed.lines is a list of Line, sum takes a list of numbers",
        ),
        (
            *("size(placed.amount)", 5, Code.TYPE_MISMATCH),
            "placed.amount is int, size is that of a list, map or text",
        ),
        (
            *("placed.lines['a']", 13, Code.TYPE_MISMATCH),
            '"a" is text, an item of placed.lines has a number: expected int',
        ),
        (
            *("placed.amount[0]", 0, Code.TYPE_MISMATCH),
            "placed.amount is int, [ ] looks into a list or a map",
        ),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(text, offset, code, message):
    problems = check(parse(text), SCOPE).problems

    assert [(each.offset, each.code, each.message) for each in problems] == [
        (offset, code, message)
    ]


def test_all_mistakes_of_an_expression_are_told_once_and_nothing_that_follows():
    text = "a.b + a.c > 'x' && placed.amont == placed.currency.x && ship.x < pay.y"
    problems = check(parse(text), SCOPE).problems

    assert [(each.offset, each.code) for each in problems] == [
        (0, Code.UNKNOWN_NAME),
        (19, Code.NO_SUCH_FIELD),
        (35, Code.NO_SUCH_FIELD),
        (56, Code.NO_SUCH_FIELD),
        (65, "not-a-dependency"),
    ]


@pytest.mark.parametrize(
    ("expression", "expected", "message"),
    [
        (parse("placed.amount"), BOOL, "placed.amount is int, expected true or false"),
        (parse("placed"), LIST, "placed is Placed, expected a list"),
        (parse_template("${placed.note}"), INT, "placed.note is text, expected int"),
        (
            parse_template("${placed.amount} ${placed.currency}"),
            INT,
            "${placed.amount} ${placed.currency} is text, expected int",
        ),
        (
            parse_template("see ${placed.lines}"),
            ANY,
            "placed.lines is a list of Line, in a text write string(placed.lines)",
        ),
    ],
)
def test_the_place_of_an_expression_expects_a_type(expression, expected, message):
    problems = check(expression, SCOPE, expected=expected).problems

    assert [each.message for each in problems] == [message]


@pytest.mark.parametrize(
    ("found", "expected", "is_fit"),
    [
        (INT, FLOAT, True),
        (FLOAT, INT, False),
        (ANY, INT, True),
        (NULL, TEXT, True),
        (list_of(INT), list_of(FLOAT), True),
        (list_of(TEXT), list_of(INT), False),
        (SCOPE["placed"], type_of_schema({"type": "object", "additionalProperties": True}), True),
        (TEXT, type_of_schema({"type": "string", "format": "date"}), True),
        (
            type_of_schema({"type": "string", "format": "date"}),
            type_of_schema({"type": "string", "format": "uuid"}),
            False,
        ),
        (
            check(parse("'a'"), {}).type,
            type_of_schema({"type": "string", "enum": ["b", "c"]}),
            False,
        ),
    ],
)
def test_a_type_fits_where_a_value_of_it_may(found, expected, is_fit):
    assert fits(found, expected) is is_fit


def test_schemas_that_hold_themselves_are_looked_into_as_far_as_asked():
    nested = type_of_model(Nested)

    assert nested.kind is Kind.LIST
    assert check(parse("a" + "[0]" * 19), {"a": nested}).problems == ()
    assert type_of_model(Line).fields["parent"] == type_of_model(Line)


def test_a_variable_hides_a_name_and_only_in_its_macro():
    text = "offer.exists(placed, placed.price > 1) && placed.amount > 1"

    assert check(parse(text), SCOPE).problems == ()
