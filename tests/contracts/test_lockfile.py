"""A change that readers cannot follow is told from one that they can, and each says what to do."""

import json
from datetime import datetime
from decimal import Decimal
from types import new_class
from typing import Annotated, Any, ForwardRef, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, create_model

from saga.contracts import ContractRegistry, Event, Intent
from saga.contracts.lockfile import (
    Change,
    ChangeKind,
    check,
    lock_of,
    lock_text,
    read_lock,
    refuse_incompatible,
)
from saga.errors import ContractChanged, DefinitionError

NAME = "lock-orders.evt.placed.v1"


class Line(BaseModel):
    article: str
    quantity: int = 1


def placed(fields: dict[str, Any], *, key: str | None = None) -> type[Event]:
    """The contract `lock-orders.placed` with these fields; a plain type is required."""
    full = {name: one if isinstance(one, tuple) else (one, ...) for name, one in fields.items()}
    keywords = {"topic": "lock-orders.placed", "version": 1, "key": key}
    made: type[Event] = create_model(
        "Placed", __base__=Event, __module__=__name__, __cls_kwargs__=keywords, **full
    )
    return made


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str | None, bool]]:
    """Kind, field and compatibility of each change between two sets of fields."""
    lock = read_lock(lock_text(lock_of(ContractRegistry([placed(before)]))))
    found = check(ContractRegistry([placed(after)]), lock)
    assert all(one.contract == NAME and one.advice for one in found)
    return [(one.kind.value, one.field, one.compatible) for one in found]


def line(**fields: Any) -> type[BaseModel]:
    """A nested model with these fields."""
    full = {name: one if isinstance(one, tuple) else (one, ...) for name, one in fields.items()}
    made: type[BaseModel] = create_model("Line", **full)
    return made


TEXT_MAX = Annotated[str, Field(max_length=5)]
MATRIX: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str | None, bool]]]] = {
    "nothing": ({"a": str}, {"a": str}, []),
    "order of fields": ({"a": str, "b": int}, {"b": int, "a": str}, []),
    "prose": (
        {"a": Annotated[str, Field(title="A", description="old", examples=["x"])]},
        {"a": Annotated[str, Field(description="new")]},
        [],
    ),
    "name of a nested class": ({"a": Line}, {"a": create_model("Row", __base__=Line)}, []),
    "required added": ({}, {"a": str}, [("required_added", "a", False)]),
    "optional added": ({}, {"a": (str, "x")}, [("optional_added", "a", True)]),
    "required removed": ({"a": str}, {}, [("required_removed", "a", False)]),
    "optional removed": ({"a": (str, "x")}, {}, [("optional_removed", "a", True)]),
    "renamed": (
        {"a": str},
        {"b": str},
        [("required_removed", "a", False), ("required_added", "b", False)],
    ),
    "made required": ({"a": (str, "x")}, {"a": str}, [("made_required", "a", False)]),
    "made optional": ({"a": str}, {"a": (str, "x")}, [("made_optional", "a", False)]),
    "default": ({"a": (str, "x")}, {"a": (str, "y")}, [("default_changed", "a", True)]),
    "type": ({"a": str}, {"a": int}, [("type_changed", "a", False)]),
    "integer to number": ({"a": int}, {"a": float}, [("type_changed", "a", False)]),
    "null allowed": ({"a": str}, {"a": str | None}, [("type_changed", "a", False)]),
    "null refused": ({"a": str | None}, {"a": str}, [("type_changed", "a", False)]),
    "union reordered": ({"a": str | int}, {"a": int | str}, []),
    "format": ({"a": datetime}, {"a": str}, [("type_changed", "a", False)]),
    "anything to text": ({"a": Any}, {"a": str}, [("type_changed", "a", False)]),
    "items": ({"a": list[str]}, {"a": list[int]}, [("type_changed", "a[]", False)]),
    "list to one": ({"a": list[str]}, {"a": str}, [("type_changed", "a", False)]),
    "values of a mapping": (
        {"a": dict[str, int]},
        {"a": dict[str, str]},
        [("type_changed", "a{}", False)],
    ),
    "tuple": ({"a": tuple[str, int]}, {"a": tuple[str, str]}, [("type_changed", "a[1]", False)]),
    "longer tuple": (
        {"a": tuple[str]},
        {"a": tuple[str, str]},
        [("widened", "a", True), ("narrowed", "a", False)],
    ),
    "value removed": (
        {"a": Literal["x", "y"]},
        {"a": Literal["x"]},
        [("values_removed", "a", False)],
    ),
    "value added": ({"a": Literal["x"]}, {"a": Literal["x", "y"]}, [("values_added", "a", True)]),
    "values exchanged": (
        {"a": Literal["x", "y"]},
        {"a": Literal["x", "z"]},
        [("values_removed", "a", False)],
    ),
    "text to values": ({"a": str}, {"a": Literal["x", "y"]}, [("values_removed", "a", False)]),
    "values to text": ({"a": Literal["x", "y"]}, {"a": str}, [("values_added", "a", True)]),
    "limit added": ({"a": str}, {"a": TEXT_MAX}, [("narrowed", "a", False)]),
    "limit removed": ({"a": TEXT_MAX}, {"a": str}, [("widened", "a", True)]),
    "minimum raised": (
        {"a": Annotated[int, Field(ge=0)]},
        {"a": Annotated[int, Field(ge=1)]},
        [("narrowed", "a", False)],
    ),
    "minimum lowered": (
        {"a": Annotated[int, Field(ge=1)]},
        {"a": Annotated[int, Field(ge=0)]},
        [("widened", "a", True)],
    ),
    "maximum lowered": (
        {"a": Annotated[int, Field(lt=9)]},
        {"a": Annotated[int, Field(lt=8)]},
        [("narrowed", "a", False)],
    ),
    "pattern": (
        {"a": Annotated[str, Field(pattern="^a")]},
        {"a": Annotated[str, Field(pattern="^b")]},
        [("narrowed", "a", False)],
    ),
    "within lines": (
        {"a": list[line(article=str)]},
        {"a": list[line(article=str, quantity=int)]},
        [("required_added", "a[].quantity", False)],
    ),
    "within an optional line": (
        {"a": (line(article=str) | None, None)},
        {"a": (line(article=str, quantity=(int, 1)) | None, None)},
        [("optional_added", "a.quantity", True)],
    ),
    "fields named like keywords": (
        {"title": str, "default": int, "properties": str},
        {"title": int, "default": int, "properties": str},
        [("type_changed", "title", False)],
    ),
    "decimal": ({"a": Decimal}, {"a": Decimal}, []),
}


@pytest.mark.parametrize("case", MATRIX)
def test_change_is_classified(case):
    before, after, expected = MATRIX[case]

    assert sorted(changes(before, after)) == sorted(expected)


def test_change_says_before_after_and_what_to_do():
    """A line of the report is enough to act on."""
    lock = lock_of(ContractRegistry([placed({"amount": int})]))
    (change,) = check(ContractRegistry([placed({"amount": str})]), lock)

    assert (change.before, change.after) == ("integer", "string")
    assert str(change) == (
        f"{NAME}: amount: type changed (integer -> string); publish it as a new major version and"
        " join the two with @upcast"
    )
    with pytest.raises(ContractChanged, match="amount: type changed"):
        refuse_incompatible([change])


def test_compatible_changes_are_let_through():
    """What readers can follow is reported, with the reminder to lock it, and not refused."""
    lock = lock_of(ContractRegistry([placed({})]))
    found = check(ContractRegistry([placed({"note": (str, "")})]), lock)

    refuse_incompatible(found)
    assert "saga topics lock" in found[0].advice


def test_key_and_reply_belong_to_the_contract():
    """Another key finds other sagas, another reply is another protocol."""
    lock = lock_of(ContractRegistry([placed({"a": str, "b": str}, key="a")]))
    (change,) = check(ContractRegistry([placed({"a": str, "b": str}, key="b")]), lock)
    assert change == Change(NAME, ChangeKind.KEY_CHANGED, None, "a", "b")
    assert not change.compatible

    def intent(reply):
        return new_class("Pay", (Intent[reply],), {"topic": "lock-payments.pay", "version": 1})

    class Paid(Event, topic="lock-payments.paid", version=1):
        pass

    lock = lock_of(ContractRegistry([intent(None), Paid]))
    (change,) = check(ContractRegistry([intent(Paid)]), lock)
    assert change.kind == "reply_changed"
    assert change.before == "lock-payments.evt.intent-done.v1"
    assert change.after == "lock-payments.evt.paid.v1"
    assert not change.compatible


def test_contract_added_is_fine_and_removed_is_not():
    """A new contract only wants locking; a version that is gone leaves unreadable messages."""
    registry, nothing = ContractRegistry([placed({})]), ContractRegistry([])

    (added,) = check(registry, lock_of(nothing))
    (removed,) = check(nothing, lock_of(registry))

    assert (added.contract, added.kind, added.compatible) == (NAME, "contract_added", True)
    assert (removed.contract, removed.kind, removed.compatible) == (NAME, "contract_removed", False)


class Node(BaseModel):
    name: str
    children: "list[Node]" = []


def test_recursive_models_are_compared_to_an_end():
    """A model that holds itself is compared once."""

    def tree(**more: Any) -> type[BaseModel]:
        made = create_model("Tree", name=(str, ...), kids=(list[ForwardRef("Tree")], []), **more)
        made.model_rebuild(_types_namespace={"Tree": made})
        return made

    assert changes({"a": Node}, {"a": Node}) == []
    assert changes({"a": tree()}, {"a": tree(size=(int, ...))}) == [
        ("required_added", "a.size", False)
    ]


def test_lock_file_is_stable_text():
    """The same contracts give the same bytes, sorted and with a newline at the end."""
    one = lock_text(lock_of(ContractRegistry([placed({"b": Line, "a": str})])))
    two = lock_text(lock_of(ContractRegistry([placed({"b": Line, "a": str})])))

    assert one == two
    assert one.endswith("}\n")
    assert lock_text(read_lock(one)) == one
    assert json.dumps(json.loads(one), sort_keys=True) == json.dumps(json.loads(one))
    assert "intent-done" not in one


def test_locked_schema_judges_as_the_model_does():
    """The schema that other languages use accepts and refuses what we do."""
    lock = lock_of(ContractRegistry([placed({"a": str, "lines": list[Line]})]))
    validator = jsonschema.Draft202012Validator(dict(lock[NAME].schema))

    assert validator.is_valid({"a": "x", "lines": [{"article": "y"}], "more": 1})
    assert not validator.is_valid({"a": 7, "lines": []})
    assert not validator.is_valid({"a": "x", "lines": [{}]})


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda lock: lock.pop("format"), "no lock file of format 1"),
        (lambda lock: lock.update(format=2), "no lock file of format 1"),
        (lambda lock: lock["contracts"].update(a=1), "no schema for a"),
    ],
)
def test_lock_file_of_another_shape_is_refused(spoil, problem):
    lock = {"format": 1, "contracts": {}}
    spoil(lock)

    with pytest.raises(DefinitionError, match=problem) as refused:
        read_lock(json.dumps(lock), where="topics/contracts.lock.json")
    assert refused.value.where == "topics/contracts.lock.json"


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_text_that_is_no_lock_is_refused(text):
    with pytest.raises(DefinitionError, match="lock file"):
        read_lock(text)
