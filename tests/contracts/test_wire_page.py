"""The tables of commands on the wire's page are those of the model that reads them."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from saga.contracts import Command, CommandAct
from saga.core.identity import saga_id

PAGE = (Path(__file__).parents[2] / "docs/reference/wire.md").read_text("utf-8")
SECTION = PAGE.partition("## What one asks of a saga\n")[2].partition("\n## ")[0]
ACTS, FIELDS = (
    [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    for table in re.findall(r"^\|.*\|$(?:\n^\|.*\|$)*", SECTION, re.MULTILINE)
)
OF_ALL = {"command_id", "act", "saga_id", "definition", "reason", "actor", "requested_at"}
SAMPLES = {
    "name": "change",
    "payload": {"add": "tea"},
    "mode": "immediate",
    "step": "pay",
    "state": "done",
    "evidence": "the bank's statement",
    "reply": {"contract": "bank.evt.paid.v1", "payload": {}},
    "timer": "I/sleep",
    "due_at": 1,
    "definition": "basket",
    "key": "o-2",
    "trigger": {"contract": "toys.evt.placed.v1", "payload": {}},
    "from_version": 1,
    "to_version": 2,
    "steps": {"pay": "charge"},
    "reason": "late",
}


def named(cell):
    return re.findall(r"`(\w+)`", cell.partition(";")[0])


def command(act, fields):
    said = {"command_id": "c-1", "act": act, "saga_id": saga_id("basket", "o-1")}
    return Command.model_validate(said | {name: SAMPLES[name] for name in fields})


def test_every_act_is_there():
    assert [row[0].strip("`") for row in ACTS] == [act.value for act in CommandAct]


def test_every_field_is_there_with_what_holds_without_it():
    fields = Command.model_fields
    assert [row[0].strip("`") for row in FIELDS] == list(fields)
    for (name, field), (_, default, _) in zip(fields.items(), FIELDS, strict=True):
        assert field.is_required() == (default == ""), name
        if field.default and not field.is_required():
            assert default == f"`{field.default.value}`"


@pytest.mark.parametrize("row", ACTS, ids=[row[0].strip("`") for row in ACTS])
def test_an_act_needs_what_the_page_says_and_no_more(row):
    act, needs, may_have, _ = row[0].strip("`"), named(row[1]), named(row[2]), row[3]
    assert command(act, needs).act == act
    assert command(act, [*needs, *may_have]).act == act
    for missing in needs:
        with pytest.raises(ValidationError):
            command(act, [name for name in needs if name != missing])


def test_every_field_belongs_to_an_act_or_to_all():
    of_acts = {name for row in ACTS for name in (*named(row[1]), *named(row[2]))}
    assert of_acts | OF_ALL == set(Command.model_fields)


@pytest.mark.parametrize("act", CommandAct)
def test_only_what_the_page_names_can_be_for_all_of_a_definition(act):
    of_all = re.search(r"A command without `saga_id`.*?\.\n", SECTION, re.DOTALL).group()
    needs = next(named(row[1]) for row in ACTS if row[0] == f"`{act.value}`")
    said = {"command_id": "c-1", "act": act, "definition": "basket"}
    said |= {name: SAMPLES[name] for name in needs}
    if f"`{act.value}`" in of_all:
        assert Command.model_validate(said).is_for_all
    else:
        with pytest.raises(ValidationError, match="names no saga"):
            Command.model_validate(said)


def test_to_cancel_by_abandoning_needs_a_reason():
    assert "`mode` `abandon` needs `reason`" in SECTION
    said = {"command_id": "c-1", "act": "cancel", "saga_id": "s", "mode": "abandon"}
    with pytest.raises(ValidationError, match="needs a reason"):
        Command.model_validate(said)
