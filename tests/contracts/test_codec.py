"""Whatever bytes arrive, `decode` answers: with a model, or with the reason why there is none."""

import json
from asyncio import CancelledError
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from saga.contracts import (
    ContractRegistry,
    Decoded,
    Event,
    Unreadable,
    UnreadableCode,
    canonical,
    canonical_text,
    decode,
    decode_record,
    encode,
    encode_for_readers,
    message_of,
    read,
    wrong_headers,
)
from saga.contracts.cloudevents import Attributes, Said
from saga.contracts.json_text import DEPTH_MAX, canonical_dump, flaw_of, is_deep
from saga.core.events import Json, Message
from saga.core.identity import Instant
from saga.errors import DefinitionError, MalformedMessage, MessageError, UnsupportedVersion

FINITE = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FINITE | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Line(BaseModel):
    model_config = ConfigDict(frozen=True)

    article: str
    quantity: Annotated[int, Field(gt=0)]


class Placed(Event, topic="codec-orders.placed", version=1, key="order_id"):
    order_id: str
    amount: int = 0
    lines: tuple[Line, ...] = ()


class Rich(Event, topic="codec-orders.rich", version=1):
    text: str
    number: int
    real: float
    flag: bool
    size: Size
    kind: Literal["a", "b"]
    when: datetime
    day: date
    wait: timedelta
    price: Decimal
    id: UUID
    named: dict[str, int]
    maybe: str | None
    pairs: tuple[tuple[str, int], ...]
    anything: Any


class Aliased(Event, topic="codec-orders.aliased", version=1):
    order_id: str = Field(alias="orderId")


class Grumpy(Event, topic="codec-orders.grumpy", version=1):
    order_id: str

    @field_validator("order_id")
    @classmethod
    def _check(cls, order_id: str) -> str:
        if order_id == "value":
            raise ValueError("this order is not welcome")
        if order_id == "bug":
            raise KeyError(order_id)
        return order_id


class Lax(Event, topic="codec-orders.lax", version=1):
    model_config = ConfigDict(strict=False)

    amount: int


REGISTRY = ContractRegistry([Placed, Rich, Aliased, Grumpy, Lax])
PLACED = "codec-orders.evt.placed.v1"
GOOD = b'{"amount":5,"lines":[],"order_id":"o-1"}'


def nested(depth: int, value: bytes = b"") -> bytes:
    """An object that holds arrays, *depth* levels in all."""
    return b'{"order_id":"o","more":' + b"[" * (depth - 1) + value + b"]" * (depth - 1) + b"}"


UNREADABLE: dict[str, tuple[bytes | None, str, str]] = {
    "tombstone": (None, "null_value", "no value"),
    "empty": (b"", "not_json", "line 1, column 1"),
    "blank": (b"  \n ", "not_json", "no JSON"),
    "cut off": (GOOD[:-1], "not_json", "column"),
    "two values": (GOOD + GOOD, "not_json", "column 41"),
    "single quotes": (b"{'order_id': 'o'}", "not_json", "line 1"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "not_json", "line 1"),
    "control character": (b'{"order_id":"\x01"}', "not_json", "control character"),
    "pickle": (b"\x80\x04K*.", "not_utf8", "byte 0"),
    "latin-1": ('{"order_id":"é"}'.encode("latin-1"), "not_utf8", "byte 13"),
    "utf-16": ('{"order_id":"o"}'.encode("utf-16"), "not_utf8", "byte 0"),
    "overlong utf-8": (b'{"order_id":"\xc0\xaf"}', "not_utf8", "byte 13"),
    "encoded surrogate": (b'{"order_id":"\xed\xa0\x80"}', "not_utf8", "byte 13"),
    "escaped surrogate": (b'{"order_id":"\\ud800"}', "lone_surrogate", "half"),
    "second half first": (b'{"order_id":"\\uDE00\\uD83D"}', "lone_surrogate", "half"),
    "surrogate as key": (b'{"order_id":"o","\\udfff":1}', "lone_surrogate", "half"),
    "duplicate key": (b'{"order_id":"a","order_id":"b"}', "duplicate_key", '"order_id"'),
    "duplicate of an extra": (b'{"order_id":"a","x":1,"x":1}', "duplicate_key", '"x"'),
    "duplicate within": (b'{"order_id":"a","x":[{"y":1,"y":2}]}', "duplicate_key", '"y"'),
    "duplicate by escape": (b'{"order_id":"a","order\\u005fid":"b"}', "duplicate_key", "twice"),
    "NaN": (b'{"order_id":"o","amount":NaN}', "number_out_of_range", "NaN"),
    "bare NaN": (b"NaN", "number_out_of_range", "NaN"),
    "minus infinity": (b'{"order_id":"o","x":-Infinity}', "number_out_of_range", "-Infinity"),
    "infinite by size": (b'{"order_id":"o","x":1e999}', "number_out_of_range", "1e999"),
    "beyond 64 bits": (
        b'{"order_id":"o","amount":18446744073709551616}',
        "number_out_of_range",
        "",
    ),
    "below 64 bits": (
        b'{"order_id":"o","x":-9223372036854775809}',
        "number_out_of_range",
        "64 bits",
    ),
    "5,000 digits": (b'{"order_id":"o","x":' + b"9" * 5000 + b"}", "number_out_of_range", "999..."),
    "100,000 deep": (b"[" * 100_000 + b"]" * 100_000, "too_deep", "more than 100"),
    "100,000 open": (b"[" * 100_000, "too_deep", "more than 100"),
    "100,000 objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep", "more than 100"),
    "one too deep": (nested(DEPTH_MAX + 1), "too_deep", "more than 100"),
    "a long name": (
        b'{"order_id":"o","' + b"n" * 1_001 + b'" :"' + b"x" * 16_000 + b'"}',
        "name_too_long",
        "1000 bytes",
    ),
    "array": (b'[{"order_id":"o"}]', "not_an_object", "object"),
    "text": (b'"order_id"', "not_an_object", "object"),
    "null": (b" null", "not_an_object", "object"),
    "number for text": (b'{"order_id":7}', "schema", "order_id: expected a valid string, got 7"),
    "null for text": (
        b'{"order_id":null}',
        "schema",
        "order_id: expected a valid string, got null",
    ),
    "missing": (b'{"amount":1}', "schema", "order_id: is missing"),
    "text for number": (b'{"order_id":"o","amount":"5"}', "schema", 'a valid integer, got "5"'),
    "true for number": (b'{"order_id":"o","amount":true}', "schema", "a valid integer, got true"),
    "real for number": (b'{"order_id":"o","amount":5.5}', "schema", "amount: "),
    "object for number": (b'{"order_id":"o","amount":{"a":1}}', "schema", "got an object"),
    "line": (
        b'{"order_id":"o","lines":[{"article":"a","quantity":0}]}',
        "schema",
        "lines[0].quantity: expected greater than 0, got 0",
    ),
    "two problems": (b'{"amount":[]}', "schema", "order_id: is missing; amount: expected"),
}


def refused(value, name=PLACED, **options):
    """Why *value* cannot be read."""
    found = decode(REGISTRY, name, value, **options)
    assert isinstance(found, Unreadable)
    return found


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_said_by_code_and_place(case):
    value, code, said = UNREADABLE[case]

    found = refused(value)

    assert (found.code, said in found.message) == (code, True), found.message
    assert len(found.message) <= 500


def test_every_code_has_an_example():
    codes = {code for _, code, _ in UNREADABLE.values()}
    codes |= {"bad_header", "too_large", "unknown_contract", "unsupported_version", "upcast_failed"}

    assert codes == set(UnreadableCode)


def test_value_over_the_limit_is_not_looked_at():
    """Size is judged first, by a limit that the caller may set."""
    found = refused(b"\xff" * 101, bytes_max=100)

    assert found.code is UnreadableCode.TOO_LARGE
    assert found.message == "101 bytes, of which at most 100 are read"
    assert isinstance(decode(REGISTRY, PLACED, GOOD, bytes_max=len(GOOD)), Decoded)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("codec-orders.evt.plcaed.v1", UnreadableCode.UNKNOWN_CONTRACT),
        ("codec-orders.int.placed.v1", UnreadableCode.UNKNOWN_CONTRACT),
        ("", UnreadableCode.UNKNOWN_CONTRACT),
        ("\ud800" * 1000, UnreadableCode.UNKNOWN_CONTRACT),
        ("codec-orders.evt.placed.v2", UnreadableCode.UNSUPPORTED_VERSION),
    ],
)
def test_contract_that_is_not_known_is_told_from_its_version(name, code):
    """A newer version of a known contract needs a deploy; an unknown contract is a mistake."""
    found = refused(GOOD, name)

    assert found.code is code
    found.message.encode()


def test_as_deep_as_allowed_is_read():
    """The limit itself is legal, whatever brackets stand in strings."""
    assert isinstance(decode(REGISTRY, PLACED, nested(DEPTH_MAX)), Decoded)
    text = json.dumps({"order_id": '\\"[{' * 500, "x": [[]] * 300}).encode()
    assert isinstance(decode(REGISTRY, PLACED, text), Decoded)


def test_verdict_does_not_depend_on_the_stack():
    """A value as deep as allowed is read by a caller that is itself deep."""

    def descend(levels: int) -> Decoded | Unreadable:
        if levels:
            return descend(levels - 1)
        return decode(REGISTRY, PLACED, nested(DEPTH_MAX - 1, b" "))

    assert isinstance(descend(600), Decoded)


def test_fields_that_are_not_known_are_gone_from_the_payload():
    """A publisher may add fields; a history keeps what was understood, in its canonical form."""
    found = decode(REGISTRY, PLACED, b' {"order_id": "\\u00e9", "colour": {"z": [1e2]}} ')

    assert found == Decoded(PLACED, Placed(order_id="é"), '{"amount":0,"lines":[],"order_id":"é"}')


@pytest.mark.parametrize("encoder", [json.dumps, lambda value: json.dumps(value, indent=2)])
def test_any_spelling_of_one_value_is_the_same_message(encoder):
    """Spaces, order of keys and escapes mean nothing."""
    value = {"order_id": "ä\n", "lines": [{"quantity": 2, "article": "a"}], "amount": 3}

    found = decode(REGISTRY, PLACED, encoder(value).encode())

    assert found == Decoded(
        PLACED,
        Placed.model_validate(value),
        orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode(),
    )


def test_problem_of_a_long_input_is_short():
    value = json.dumps({"order_id": "o", "amount": "secret" * 10_000}).encode()
    found = refused(value)

    assert len(found.message) < 200

    value = json.dumps({"order_id": "o", "lines": [{"article": 1}] * 5000}).encode()
    found = refused(value)

    assert found.message.endswith("and 9997 more")

    value = json.dumps({"order_id": "o", "lines": [1] * 10_001}).encode()
    found = decode(REGISTRY, PLACED, value)

    assert found == Unreadable(UnreadableCode.SCHEMA, "10001 values are not what the contract says")


def test_validators_of_the_author_may_refuse_or_fail():
    """What a validator says is passed on; what it raises by mistake is no traceback."""
    name = "codec-orders.evt.grumpy.v1"
    refused = decode(REGISTRY, name, b'{"order_id":"value"}')
    failed = decode(REGISTRY, name, b'{"order_id":"bug"}')

    assert refused == Unreadable(
        UnreadableCode.SCHEMA, 'order_id: this order is not welcome, got "value"'
    )
    assert failed == Unreadable(UnreadableCode.SCHEMA, "Grumpy raised KeyError: 'bug'")


def test_lax_contract_takes_what_can_be_converted():
    found = decode(REGISTRY, "codec-orders.evt.lax.v1", b'{"amount":"5"}')

    assert isinstance(found, Decoded)
    assert found.payload == '{"amount":5}'


def test_aliases_are_the_names_on_the_wire():
    found = decode(REGISTRY, "codec-orders.evt.aliased.v1", b'{"orderId":"o"}')

    assert isinstance(found, Decoded)
    assert found.payload == '{"orderId":"o"}'


RICH = st.builds(
    Rich,
    text=TEXTS,
    number=INTEGERS,
    real=FINITE,
    flag=st.booleans(),
    size=st.sampled_from(Size),
    kind=st.sampled_from(["a", "b"]),
    when=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    wait=st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000)),
    price=st.decimals(allow_nan=False, allow_infinity=False, places=2),
    id=st.uuids(),
    named=st.dictionaries(TEXTS, INTEGERS, max_size=3),
    maybe=st.none() | TEXTS,
    pairs=st.lists(st.tuples(TEXTS, INTEGERS), max_size=3).map(tuple),
    anything=JSON_VALUES,
)


@given(RICH)
def test_decode_is_the_inverse_of_encode(model):
    text = encode(model)

    assert decode(REGISTRY, "codec-orders.evt.rich.v1", text.encode()) == Decoded(
        "codec-orders.evt.rich.v1", model, text
    )
    assert flaw_of(text.encode()) is None
    assert canonical_text(text.encode()) == text


@given(JSON_VALUES)
@example({"b": 1, "a": {"d": None, "c": -0.0}})
def test_canonical_is_idempotent(value):
    text = canonical(value)

    assert canonical(json.loads(text)) == text
    assert canonical_text(json.dumps(value, indent=1).encode()) == text
    assert json.loads(text) == value


@given(st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_decode_never_raises(value):
    found = decode(REGISTRY, PLACED, value)

    assert isinstance(found, Decoded | Unreadable)


@given(st.text(st.sampled_from('[]{}",:1a\\ '), max_size=60))
def test_nothing_is_accepted_that_the_standard_library_refuses(text):
    """What passes as JSON here is JSON elsewhere; deep or not."""
    if flaw_of(text.encode()) is None:
        json.loads(text)


@given(st.lists(st.sampled_from("[{"), min_size=1, max_size=250))
def test_depth_is_counted_exactly(opening):
    """Exactly the limit passes, one more does not, whatever the brackets."""
    closing = {"[": "]", "{": "}"}
    text = "".join(opening) + "".join(closing[one] for one in reversed(opening))

    assert is_deep(f"[{text[1:-1]}]".encode()) == (len(opening) > DEPTH_MAX)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (float("nan"), "number_out_of_range"),
        ([{"a": float("inf")}], "number_out_of_range"),
        (2**64, "number_out_of_range"),
        ("\ud800", "lone_surrogate"),
        ({"\udfff": 1}, "lone_surrogate"),
        ({1: 2}, "not_json"),
        (object(), "not_json"),
        ({1, 2}, "not_json"),
    ],
)
def test_value_without_canonical_form_is_refused(value, code):
    """What JSON cannot say is an error, never null and never rounded."""
    with pytest.raises(MalformedMessage) as refused:
        canonical(value)

    assert refused.value.code == code


def test_deep_value_is_refused_before_it_is_sent():
    value: Any = []
    for _ in range(DEPTH_MAX):
        value = [value]
    with pytest.raises(MalformedMessage, match="more than 100"):
        canonical(value)
    for _ in range(5000):
        value = [value]
    with pytest.raises(MalformedMessage, match="more than 100"):
        canonical(value)


RICH_EXAMPLE: dict[str, Any] = {
    "text": "",
    "number": 1,
    "real": 0.5,
    "flag": True,
    "size": Size.SMALL,
    "kind": "a",
    "when": datetime(2026, 1, 1, tzinfo=UTC),
    "day": date(2026, 1, 1),
    "wait": timedelta(seconds=1),
    "price": Decimal("1.10"),
    "id": UUID(int=0),
    "named": {},
    "maybe": None,
    "pairs": (),
    "anything": None,
}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"anything": float("nan")}, "number_out_of_range"),
        ({"anything": [1, {"x": float("-inf")}]}, "number_out_of_range"),
        ({"number": 2**64}, "number_out_of_range"),
        ({"number": 184467440737095516160}, "number_out_of_range"),
        ({"number": -(2**63) - 1}, "number_out_of_range"),
        ({"number": 10**4000}, "number_out_of_range"),
        ({"text": "\ud800"}, "lone_surrogate"),
        ({"anything": object()}, "schema"),
        ({"anything": {1: "a", "1": "b"}}, "duplicate_key"),
    ],
)
def test_model_that_no_reader_could_read_is_not_sent(fields, code):
    """What hides in a field of any type, or was put there unchecked, shows when it is encoded."""
    model = Rich.model_construct(**RICH_EXAMPLE | fields)

    with pytest.raises(MalformedMessage) as refused:
        encode(model)

    assert refused.value.code == code


def test_value_put_unchecked_into_a_field_is_not_sent():
    """`model_construct` and `model_copy` check nothing; encoding does."""
    with pytest.raises(MalformedMessage, match="Expected `int`"):
        encode(Placed(order_id="o").model_copy(update={"amount": "many"}))


def test_canonical_dump_tells_no_flaw_where_only_the_spelling_differs():
    """Another spelling of a number is no reason to refuse."""
    assert canonical_dump(b'{"b":1E2,"a":1.50}') == b'{"a":1.5,"b":100.0}'


def test_stored_message_is_read_as_its_current_version():
    """`message_of` and `read` are inverse; what cannot be read any more is a typed error."""
    placed = Placed(order_id="o-1", lines=(Line(article="a", quantity=1),))

    assert read(REGISTRY, message_of(placed)) == placed
    assert message_of(placed).contract == PLACED
    with pytest.raises(UnsupportedVersion):
        read(REGISTRY, Message("codec-orders.evt.placed.v9", encode(placed)))
    with pytest.raises(MalformedMessage) as refused:
        read(REGISTRY, Message(PLACED, canonical({"order_id": 7})))
    assert refused.value.code == "schema"
    with pytest.raises(MessageError):
        read(REGISTRY, Message("nothing", canonical({})))
    with pytest.raises(DefinitionError):
        message_of(Event())


@pytest.mark.parametrize(
    "claimed",
    [None, PLACED, "", "com.shop.OrderPlaced", "codec-orders.evt.other.v9", f"{PLACED[:-1]}x"],
)
def test_what_others_call_their_types_means_nothing(claimed):
    """A header is optional, and names of others' making are nobody's mistake."""
    headers = {} if claimed is None else {"ce_type": claimed}

    assert wrong_headers(PLACED, Attributes(headers)) is None


def test_another_version_than_the_topics_is_refused():
    """It might be read as what it is not."""
    claimed = PLACED.rpartition(".v")[0] + ".v9"
    refused = wrong_headers(PLACED, Attributes({"ce_type": claimed}))
    assert refused is not None
    assert refused.code is UnreadableCode.UNSUPPORTED_VERSION
    assert "version 9" in refused.message


def test_a_header_that_cannot_be_read_is_not_taken_for_an_absent_one():
    """It is named; only the trace, on which nothing depends, is done without."""
    refused = wrong_headers(PLACED, Attributes({}, ("traceparent", "ce_id")))
    assert refused is not None
    assert refused.code is UnreadableCode.BAD_HEADER
    assert "ce_id" in refused.message
    assert wrong_headers(PLACED, Attributes({}, ("traceparent",))) is None


class Plain(Event, topic="codec-orders.plain", version=1, key="order_id"):
    order_id: str
    amount: int | None = None
    is_gift: bool = False


class Trimmed(Event, topic="codec-orders.trimmed", version=1):
    model_config = ConfigDict(str_max_length=3)

    order_id: str


class Renamed(Event, topic="codec-orders.renamed", version=1):
    order_id: str = Field(validation_alias="orderId")


FOR_READERS = ContractRegistry([Placed, Aliased, Grumpy, Lax, Plain, Trimmed, Renamed])


@pytest.mark.parametrize(
    "model",
    [
        Plain(order_id="o-1"),
        Plain(order_id="o-1", amount=3, is_gift=True),
        Placed(order_id="o-1", lines=(Line(article="a", quantity=1),)),
        Aliased(orderId="o-1"),
        Grumpy(order_id="o-1"),
        Lax(amount=1),
        Trimmed(order_id="o-1"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_is_written_for_readers_is_what_they_read(model):
    """Whether it is read again to know that, or its types say so."""
    text, decoded = encode_for_readers(FOR_READERS, model)

    assert decode(FOR_READERS, decoded.contract_name, text) == decoded
    assert decoded.model == model
    assert text == decoded.payload.encode()


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (Plain.model_construct(order_id=7), "schema"),
        (Plain.model_construct(order_id="o-1", amount=True), "schema"),
        (Plain.model_construct(amount=1), "schema"),
        (Trimmed.model_construct(order_id="too long"), "schema"),
        (Grumpy.model_construct(order_id="value"), "schema"),
        (Renamed.model_construct(order_id="o-1"), "schema"),
        (Plain(order_id="o" * 2_000), "too_large"),
        (Plain(order_id="\ud800"), "lone_surrogate"),
    ],
    ids=["type", "bool for int", "missing", "option", "validator", "alias", "size", "surrogate"],
)
def test_what_readers_would_refuse_is_refused_before_it_is_sent(model, code):
    """Also a value that was put in without being checked."""
    with pytest.raises(MalformedMessage) as refused:
        encode_for_readers(FOR_READERS, model, bytes_max=1_000)

    assert refused.value.code == code


def test_a_class_of_another_application_is_read_as_the_own_one():
    """It may have the same name and topic; what readers make of it is what they know."""

    class Foreign(Event, topic="codec-orders.plain", version=1):
        order_id: str
        colour: str = "red"

    text, decoded = encode_for_readers(FOR_READERS, Foreign(order_id="o-1"))

    assert text == b'{"colour":"red","order_id":"o-1"}'
    assert decoded.model == Plain(order_id="o-1")


PLAIN_PATH = FOR_READERS.paths["codec-orders.evt.plain.v1"]


@pytest.mark.parametrize("claimed", [PLAIN_PATH.name, "codec-orders.evt.plain.v2", "of-others"])
@pytest.mark.parametrize("text", [b'{"order_id": "o-1"}', b"{}", b"no JSON", None])
def test_a_record_said_in_this_process_is_read_as_one_that_was_received(claimed, text):
    """What its headers say is believed as it is, but for a contract that is not the topic's."""
    said = Said("e-1", claimed, "/here", Instant(0))

    headers, payload, decoded = decode_record(PLAIN_PATH, said, text)
    received, *same = decode_record(PLAIN_PATH, tuple(said), text)

    assert [payload, decoded] == same
    assert (headers.id, headers.contract_name) == (received.id, received.contract_name)


def test_a_saga_gets_the_model_that_was_read_on_arrival_once():
    """The next who asks gets one of his own: models may hold lists that can be changed."""
    text = b'{"amount":1,"is_gift":false,"order_id":"o-1"}'
    *_, decoded = decode_record(PLAIN_PATH, (), text, FOR_READERS)
    assert isinstance(decoded, Decoded)
    message = Message(decoded.contract_name, decoded.payload)

    first, second = read(FOR_READERS, message), read(FOR_READERS, message)

    assert first is decoded.model
    assert second is not decoded.model
    assert first == second


def test_a_model_of_a_text_that_is_not_canonical_is_read_again():
    """A replay has only the canonical text, and must see what the live turn saw."""
    text = b'{"order_id": "o-1"}'
    *_, decoded = decode_record(PLAIN_PATH, (), text, FOR_READERS)
    assert isinstance(decoded, Decoded)

    assert read(FOR_READERS, Message(decoded.contract_name, decoded.payload)) is not decoded.model


@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), CancelledError(), GeneratorExit(), StopIteration(1), BaseException("x")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_validator_raises_a_message_is_refused_and_an_accepted_one_read(raised):
    """Neither a reader of the bus nor one of the store is ended by it."""

    class Broken(Event, topic="codec-orders.broken", version=1):
        order_id: str

        @field_validator("order_id")
        @classmethod
        def _check(cls, order_id: str) -> str:
            raise raised

    registry = ContractRegistry([Broken])
    name, value = "codec-orders.evt.broken.v1", '{"order_id":"o-1"}'

    decoded = decode(registry, name, value.encode())
    assert isinstance(decoded, Unreadable)
    assert f"Broken raised {type(raised).__name__}" in decoded.message
    assert read(registry, Message(name, Json(value))) == Broken.model_construct(order_id="o-1")
