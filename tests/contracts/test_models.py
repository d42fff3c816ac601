"""A contract is checked when its class is made; an older version is read as the newest."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from pydantic import ConfigDict, ValidationError

from saga import SagaApp
from saga.contracts import (
    ContractRegistry,
    Decoded,
    Event,
    Intent,
    Kind,
    Unreadable,
    UnreadableCode,
    business_key,
    contract_of,
    decode,
    encode,
    reply_contract_names,
    upcast,
)
from saga.errors import DefinitionError


class Paid(Event, topic="models-payments.paid", version=1):
    receipt: str


class Pay(Intent[Paid], topic="models-payments.pay", version=1):
    order_id: str
    amount: int = 1


class Refund(Intent[None], topic="models-payments.refund", version=2):
    order_id: str


class OrderPlaced(Event, topic="models-orders.order-placed", version=1, key="order_id"):
    order_id: str
    price: float = 0.0


def declare(source: str) -> type[Any]:
    """The last class that *source* makes, in a file of its own."""
    names: dict[str, Any] = {"Event": Event, "Intent": Intent, "Paid": Paid, "__name__": __name__}
    exec(compile(source, "shop/contracts.py", "exec"), names)
    return list(names.values())[-1]


def test_contract_says_all_of_its_keywords():
    contract = contract_of(OrderPlaced)

    assert (contract.domain, contract.name, contract.kind, contract.version, contract.key) == (
        "models-orders",
        "order-placed",
        Kind.EVENT,
        1,
        "order_id",
    )
    assert contract.contract_name == "models-orders.evt.order-placed.v1"
    assert contract.model is OrderPlaced
    assert contract.where is not None
    file, line = contract.where.rsplit(":", 1)
    text = Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert text.startswith("class OrderPlaced(")


def test_intent_knows_its_reply():
    assert contract_of(Pay).kind is Kind.INTENT
    assert contract_of(Pay).reply is Paid
    assert contract_of(Refund).reply is None


def test_replies_arrive_on_the_reply_or_as_done_and_always_as_failed():
    assert reply_contract_names(contract_of(Pay)) == (
        "models-payments.evt.paid.v1",
        "models-payments.evt.intent-failed.v1",
    )
    assert reply_contract_names(contract_of(Refund)) == (
        "models-payments.evt.intent-done.v1",
        "models-payments.evt.intent-failed.v1",
    )


def test_reply_is_inherited_through_an_abstract_base():
    """A base without `topic` may say the reply for all of its intents."""

    class Payment(Intent[Paid]):
        order_id: str

    class PayLater(Payment, topic="models-payments.pay-later", version=1):
        days: int

    assert contract_of(PayLater).reply is Paid
    with pytest.raises(DefinitionError, match="is no contract"):
        contract_of(Payment)


def test_subclass_of_a_contract_is_not_that_contract():
    class Special(OrderPlaced):
        pass

    with pytest.raises(DefinitionError, match="Special is no contract"):
        contract_of(Special)


def test_models_are_frozen_and_ignore_what_they_do_not_know():
    placed = OrderPlaced.model_validate({"order_id": "o-1", "colour": "red"})

    assert placed == OrderPlaced(order_id="o-1")
    with pytest.raises(ValidationError, match="frozen"):
        placed.order_id = "o-2"


@pytest.mark.parametrize("price", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_know_are_refused(price):
    """A float field takes finite numbers only, in Python too."""
    with pytest.raises(ValidationError, match="finite"):
        OrderPlaced(order_id="o-1", price=price)


REFUSED = {
    "one part": ('class X(Event, topic="orders", version=1): pass', 'expected "<domain>.<name>"'),
    "three parts": ('class X(Event, topic="a.b.c", version=1): pass', 'expected "<domain>.<name>"'),
    "capitals": ('class X(Event, topic="Orders.placed", version=1): pass', "small letters"),
    "underscore": ('class X(Event, topic="orders.order_placed", version=1): pass', "small letters"),
    "umlaut": ('class X(Event, topic="orders.größe", version=1): pass', "small letters"),
    "newline": ('class X(Event, topic="orders.placed\\n", version=1): pass', "small letters"),
    "empty part": ('class X(Event, topic="orders.", version=1): pass', "small letters"),
    "no text": ("class X(Event, topic=7, version=1): pass", "topic=7"),
    "too long": (f'class X(Event, topic="a.{"b" * 200}", version=1): pass', "too long"),
    "reserved": ('class X(Event, topic="a.intent-failed", version=1): pass', "every domain has"),
    "version 0": ('class X(Event, topic="a.b", version=0): pass', "whole number from 1"),
    "version true": ('class X(Event, topic="a.b", version=True): pass', "whole number from 1"),
    "version text": ('class X(Event, topic="a.b", version="1"): pass', "whole number from 1"),
    "no version": ('class X(Event, topic="a.b"): pass', "whole number from 1"),
    "no topic": ("class X(Event, version=1): pass", "no topic"),
    "key without field": (
        'class X(Event, topic="a.b", version=1, key="order"):\n    order_id: str',
        "none of its fields: order_id",
    ),
    "key of an intent": ('class X(Intent[None], topic="a.b", version=1, key="x"): x: str', "key"),
    "misspelt keyword": ('class X(Event, topic="a.b", versoin=1): pass', "versoin"),
    "no reply": ('class X(Intent, topic="a.b", version=1): pass', "what answers it"),
    "reply of another type": ('class X(Intent[int], topic="a.b", version=1): pass', "'int'"),
    "reply by name": ('class X(Intent["Paid"], topic="a.b", version=1): pass', "expected an Event"),
    "abstract reply": ('class X(Intent[Event], topic="a.b", version=1): pass', "'Event'"),
    "set": ('class X(Event, topic="a.b", version=1):\n    tags: set[str]', "set in 'tags'"),
    "set within": (
        'class X(Event, topic="a.b", version=1):\n    tags: dict[str, frozenset[int]] | None',
        "set in 'tags'",
    ),
    "not frozen": ('class X(Event, topic="a.b", version=1, frozen=False): pass', "frozen=False"),
    "extra forbidden": ('class X(Event, topic="a.b", version=1, extra="forbid"): pass', "extra="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_class_that_is_no_contract_is_refused_with_file_and_line(case):
    source, problem = REFUSED[case]

    with pytest.raises(DefinitionError) as refused:
        declare(f"\n\n{source}")

    assert problem in refused.value.problem
    assert refused.value.where == "shop/contracts.py:3"
    assert str(refused.value).startswith("shop/contracts.py:3: ")


def test_set_in_a_nested_model_is_refused():
    """Sets have no order, at whatever depth they hide."""
    nested = "from pydantic import BaseModel\nclass Line(BaseModel):\n    tags: set[str]\n"

    with pytest.raises(DefinitionError, match=r"set in 'lines\.tags'"):
        declare(f'{nested}class X(Event, topic="a.b", version=1):\n    lines: list[Line]')


def test_one_topic_may_be_event_and_intent_and_have_versions():
    """Only topic, kind and version together must be unique."""
    source = "class {}({}, topic='models-shared.thing', version={}): pass"
    kept = [
        declare(source.format("A", "Event", 1)),
        declare(source.format("B", "Event", 2)),
        declare(source.format("C", "Intent[None]", 1)),
    ]

    assert [contract_of(one).contract_name for one in kept] == [
        "models-shared.evt.thing.v1",
        "models-shared.evt.thing.v2",
        "models-shared.int.thing.v1",
    ]


def test_business_key_is_text():
    class Shop(StrEnum):
        NORTH = "north"

    class Keyed(Event, topic="models-keys.keyed", version=1, key="id"):
        id: str | int | UUID | Shop | None

    some = UUID("6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11")

    assert business_key(Keyed(id="o-1")) == "o-1"
    assert business_key(Keyed(id=7)) == "7"
    assert business_key(Keyed(id=some)) == str(some)
    assert business_key(Keyed.model_construct(id=Shop.NORTH)) == "north"
    assert business_key(Keyed(id=None)) is None
    assert business_key(Paid(receipt="r")) is None


def test_field_whose_type_comes_later_is_resolved_by_the_registry():
    """A class may name one defined below it; what is never defined is refused with its place."""
    made = declare(
        "class Late(Event, topic='models-late.late', version=1):\n    line: 'Line'\n"
        "class Line(Event, topic='models-late.line', version=1):\n    tags: 'Missing'\n"
    )

    with pytest.raises(DefinitionError, match=r"shop/contracts\.py:3: Line .*Missing"):
        ContractRegistry([made])


def test_lax_contract_is_possible():
    """`strict=False` is the author's choice; it is no part of what all contracts promise."""

    class Lax(Event, topic="models-lax.lax", version=1):
        model_config = ConfigDict(strict=False)
        amount: int

    assert contract_of(Lax).version == 1


@pytest.mark.parametrize("name", ["Again", "Other"])
def test_classes_of_one_name_belong_to_different_applications(name):
    """Whether a module was loaded twice or two say the same: only who uses both is refused."""
    source = '{}class {}(Event, topic="models-again.again", version=1): {}: {}'
    first = declare(source.format("", "Again", "text", "str"))
    second = declare(source.format("\n", name, "number", "int"))

    for model in (first, second):
        contracts = ContractRegistry([model])
        assert contracts.find("models-again.evt.again.v1").model is model
        assert ContractRegistry([model, model]).published == contracts.published
    assert encode(first(text="a")) == '{"text":"a"}'
    assert encode(second(number=1)) == '{"number":1}'
    with pytest.raises(DefinitionError, match="and this application uses both") as refused:
        SagaApp(contracts=[first, second])
    assert "shop/contracts.py:1" in str(refused.value)
    assert "shop/contracts.py:2" in str(refused.value)


@pytest.fixture
def shop() -> SimpleNamespace:
    """Three versions of an event, another event, an intent of the same name; joined by nothing."""

    class V1(Event, topic="upcast-orders.placed", version=1):
        order_id: str

    class V2(Event, topic="upcast-orders.placed", version=2):
        order_id: str
        amount: int

    class V3(Event, topic="upcast-orders.placed", version=3):
        order_id: str
        cents: int

    class Other(Event, topic="upcast-orders.other", version=2):
        order_id: str

    class Do(Intent[None], topic="upcast-orders.placed", version=2):
        order_id: str

    return SimpleNamespace(V1=V1, V2=V2, V3=V3, Other=Other, Do=Do)


def annotated(function: Callable[..., Any], old: Any, new: Any) -> Callable[..., Any]:
    """*function* as if its annotations had been written so."""
    function.__annotations__ = {"old": old, "return": new}
    return function


def test_chain_is_followed_to_the_current_version(shop):
    """A message of version 1 is read as version 3; the registry finds all versions by itself."""
    V1, V2, V3 = shop.V1, shop.V2, shop.V3  # noqa: N806  # they are classes

    @upcast
    def second(old: V1) -> V2:
        return V2(order_id=old.order_id, amount=1)

    @upcast
    def third(old: V2) -> V3:
        return V3(order_id=old.order_id, cents=old.amount * 100)

    for start in (V1, V2, V3):
        registry = ContractRegistry([start])
        found = decode(registry, "upcast-orders.evt.placed.v1", b'{"order_id":"o-1"}')

        assert found == Decoded(
            "upcast-orders.evt.placed.v3",
            V3(order_id="o-1", cents=100),
            '{"cents":100,"order_id":"o-1"}',
        )
        assert registry.current("upcast-orders.evt.placed.v2") is contract_of(V3)
        assert registry.names_read_as("upcast-orders.evt.placed.v1") == tuple(
            f"upcast-orders.evt.placed.v{version}" for version in (1, 2, 3)
        )


def test_versions_that_nothing_joins_stay_apart(shop):
    """Without an upcast every version is its own current one."""
    registry = ContractRegistry([shop.V1, shop.V2])

    assert registry.current("upcast-orders.evt.placed.v1").model is shop.V1
    assert registry.names_read_as("upcast-orders.evt.placed.v2") == ("upcast-orders.evt.placed.v2",)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("V2", "V1", "it must go up"),
        ("V1", "V1", "it must go up"),
        ("V1", "Other", "versions of one topic"),
        ("V1", "Do", "versions of one topic"),
    ],
)
def test_upcast_that_joins_no_two_versions_is_refused(shop, old, new, problem):
    """Down, sideways, to another topic, or from event to intent: refused where it was written."""

    def wrong(old: Any) -> Any:
        return old

    line = wrong.__code__.co_firstlineno

    with pytest.raises(DefinitionError, match=problem) as refused:
        upcast(annotated(wrong, getattr(shop, old), getattr(shop, new)))

    assert refused.value.where == f"{__file__}:{line}"


@pytest.mark.parametrize(("old", "new"), [(int, "V2"), ("V1", int), ("V1", None), (Event, "V2")])
def test_upcast_of_what_is_no_contract_is_refused(shop, old, new):
    ends = [getattr(shop, end) if isinstance(end, str) else end for end in (old, new)]

    with pytest.raises(DefinitionError, match="two contract classes"):
        upcast(annotated(lambda old: old, *ends))


def test_upcast_without_annotations_is_refused():
    """The versions are read from the annotations, so there must be some."""
    with pytest.raises(DefinitionError, match="two contract classes"):
        upcast(lambda old: old)


def test_upcast_with_unknown_annotation_is_refused():
    """An annotation that names nothing is said by name."""

    def lost(old: "Nowhere") -> "Nowhere":  # noqa: F821  # that is the point
        return old

    with pytest.raises(DefinitionError, match="Nowhere"):
        upcast(lost)


def test_upcast_that_waits_is_refused(shop):
    """Reading a message never waits."""

    async def waits(old: Any) -> Any:
        return old

    with pytest.raises(DefinitionError, match="not async"):
        upcast(annotated(waits, shop.V1, shop.V2))


def test_second_way_up_is_refused(shop):
    def one(old: Any) -> Any:
        return old

    def another(old: Any) -> Any:
        return old

    upcast(annotated(one, shop.V1, shop.V2))

    with pytest.raises(
        DefinitionError, match=f"already has a way up.*{one.__code__.co_firstlineno}"
    ):
        upcast(annotated(another, shop.V1, shop.V3))


def test_reloaded_upcast_replaces_itself(shop):
    def make(amount: int) -> Callable[..., Any]:
        def again(old: Any) -> Any:
            return shop.V2(order_id=old.order_id, amount=amount)

        return annotated(again, shop.V1, shop.V2)

    upcast(make(1))
    upcast(make(2))
    registry = ContractRegistry([shop.V2])
    found = decode(registry, "upcast-orders.evt.placed.v1", b'{"order_id":"o"}')

    assert isinstance(found, Decoded)
    assert found.payload == '{"amount":2,"order_id":"o"}'
    assert len(shop.V2.__saga_upcasts_from__) == 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda old: old.nothing, "raised AttributeError"),
        (lambda old: 1 // 0, "raised ZeroDivisionError"),
        (lambda old: old, "returned V1"),
        (lambda old: None, "returned NoneType"),
    ],
)
def test_failing_upcast_parks_the_message(shop, function, said):
    upcast(annotated(function, shop.V1, shop.V2))

    found = decode(ContractRegistry([shop.V1]), "upcast-orders.evt.placed.v1", b'{"order_id":"o"}')

    assert isinstance(found, Unreadable)
    assert found.code is UnreadableCode.UPCAST_FAILED
    assert said in found.message
    assert f"{__file__}:{function.__code__.co_firstlineno}" in found.message


def test_upcast_whose_result_cannot_be_written_is_refused(shop):
    """A new version that no reader could read is as bad as none."""

    def swells(old: Any) -> Any:
        return shop.V2(order_id=old.order_id, amount=2**70)

    upcast(annotated(swells, shop.V1, shop.V2))

    found = decode(ContractRegistry([shop.V1]), "upcast-orders.evt.placed.v1", b'{"order_id":"o"}')

    assert isinstance(found, Unreadable)
    assert found.code is UnreadableCode.UPCAST_FAILED
