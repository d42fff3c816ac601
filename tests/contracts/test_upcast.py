"""Upcasts join the versions of a contract, upwards only and each in one way."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from saga.contracts import (
    ContractRegistry,
    Decoded,
    Event,
    Intent,
    Unreadable,
    UnreadableCode,
    contract_of,
    decode,
    upcast,
)
from saga.errors import DefinitionError


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


def test_chain_is_followed_to_the_current_version(shop: SimpleNamespace) -> None:
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


def test_versions_that_nothing_joins_stay_apart(shop: SimpleNamespace) -> None:
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
def test_upcast_that_joins_no_two_versions_is_refused(
    shop: SimpleNamespace, old: str, new: str, problem: str
) -> None:
    """Down, sideways, to another topic, or from event to intent: refused where it was written."""

    def wrong(old: Any) -> Any:
        return old

    line = wrong.__code__.co_firstlineno

    with pytest.raises(DefinitionError, match=problem) as refused:
        upcast(annotated(wrong, getattr(shop, old), getattr(shop, new)))

    assert refused.value.where == f"{__file__}:{line}"


@pytest.mark.parametrize(("old", "new"), [(int, "V2"), ("V1", int), ("V1", None), (Event, "V2")])
def test_upcast_of_what_is_no_contract_is_refused(
    shop: SimpleNamespace, old: Any, new: Any
) -> None:
    """Both annotations must be contracts."""
    ends = [getattr(shop, end) if isinstance(end, str) else end for end in (old, new)]

    with pytest.raises(DefinitionError, match="two contract classes"):
        upcast(annotated(lambda old: old, *ends))


def test_upcast_without_annotations_is_refused() -> None:
    """The versions are read from the annotations, so there must be some."""
    with pytest.raises(DefinitionError, match="two contract classes"):
        upcast(lambda old: old)


def test_upcast_with_unknown_annotation_is_refused() -> None:
    """An annotation that names nothing is said by name."""

    def lost(old: "Nowhere") -> "Nowhere":  # noqa: F821  # that is the point
        return old

    with pytest.raises(DefinitionError, match="Nowhere"):
        upcast(lost)


def test_upcast_that_waits_is_refused(shop: SimpleNamespace) -> None:
    """Reading a message never waits."""

    async def waits(old: Any) -> Any:
        return old

    with pytest.raises(DefinitionError, match="not async"):
        upcast(annotated(waits, shop.V1, shop.V2))


def test_second_way_up_is_refused(shop: SimpleNamespace) -> None:
    """A version becomes the next one in one way; the message says where that is."""

    def one(old: Any) -> Any:
        return old

    def another(old: Any) -> Any:
        return old

    upcast(annotated(one, shop.V1, shop.V2))

    with pytest.raises(
        DefinitionError, match=f"already has a way up.*{one.__code__.co_firstlineno}"
    ):
        upcast(annotated(another, shop.V1, shop.V3))


def test_reloaded_upcast_replaces_itself(shop: SimpleNamespace) -> None:
    """The same function, defined again, is a redefinition and no second way."""

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
def test_failing_upcast_parks_the_message(
    shop: SimpleNamespace, function: Callable[..., Any], said: str
) -> None:
    """What an upcast raises, or returns instead of the new version, never leaves `decode`."""
    upcast(annotated(function, shop.V1, shop.V2))

    found = decode(ContractRegistry([shop.V1]), "upcast-orders.evt.placed.v1", b'{"order_id":"o"}')

    assert isinstance(found, Unreadable)
    assert found.code is UnreadableCode.UPCAST_FAILED
    assert said in found.message
    assert f"{__file__}:{function.__code__.co_firstlineno}" in found.message


def test_upcast_whose_result_cannot_be_written_parks_the_message(shop: SimpleNamespace) -> None:
    """A new version that no reader could read is as bad as none."""

    def swells(old: Any) -> Any:
        return shop.V2(order_id=old.order_id, amount=2**70)

    upcast(annotated(swells, shop.V1, shop.V2))

    found = decode(ContractRegistry([shop.V1]), "upcast-orders.evt.placed.v1", b'{"order_id":"o"}')

    assert isinstance(found, Unreadable)
    assert found.code is UnreadableCode.UPCAST_FAILED
