"""The JSON Schema of contract files: what is shipped is what the models say."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from saga.authoring.graphs.definition import read_contract
from saga.authoring.graphs.file.schema import contract_schema, schema_text, shipped_schema
from saga.authoring.graphs.file.shaping import Shaped
from tests.authoring.graphs.orders import ORDER

ROOT = Path(__file__).parents[3]
WRAPPED = ROOT / "examples" / "graphs" / "order_processing" / "contract.yaml"
VALIDATOR = Draft202012Validator(contract_schema())


def problems(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))]


def test_the_shipped_file_is_made_of_the_models() -> None:
    """Else: `python -m saga contract schema` prints the file; make it anew with `schema_text`."""
    assert shipped_schema() == schema_text()


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(contract_schema())


def test_both_layouts_are_valid() -> None:
    assert problems(ORDER) == []
    assert problems(WRAPPED.read_text("utf-8")) == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "graphs").rglob("*.yaml")), ids=str)
def test_the_examples_are_valid(path: Path) -> None:
    assert problems(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: order\n", ""),
        ("version: 1\n", ""),
        ("version: 1\n", "version: 0\n"),
        ("version: 1\n", 'version: "1"\n'),
        ("nodes:", "node:"),
        ("depends_on: [pay]", "depend_on: [pay]"),
        ("timeout: 14d", "timeout: 5 minutes"),
        ("attempts: 3", "attempts: 0"),
        ("node_id: pay", "node_id: Pay"),
        ("code: declined", "code: 5"),
        ("intent: parcels.ship}", "intent: ship}"),
        ("rolled_back:", "result: {}\nrolled_back:"),
        ("rolled_back: orders.order-rejected", "rolled_back: {event: a.b, result: c}"),
    ],
)
def test_what_has_a_wrong_form_is_valid_for_neither(old: str, new: str) -> None:
    """Schema and models refuse the same."""
    text = ORDER.replace(old, new)
    shaped = read_contract(text.encode())

    assert text != ORDER
    assert problems(text)
    assert isinstance(shaped, Shaped)
    assert shaped.mistakes


def test_a_wrapper_holds_what_stands_one_level_up_and_nothing_else() -> None:
    text = WRAPPED.read_text("utf-8")

    assert problems(text.replace("    execution_graph:\n", "    graph:\n"))
    assert problems(text.replace("step_config:", "step_settings:"))


def test_every_key_is_described_with_an_example() -> None:
    """An editor shows both; a choice, a default or a part of its own is example enough."""
    shown = {"examples", "enum", "const", "default", "$ref", "properties", "items", "oneOf"}
    lacking = [
        path
        for path, key in keys(contract_schema())
        if "description" not in key or not shown & {*key, *_inner(key)}
    ]

    assert lacking == []


def keys(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = [(name, key) for name, key in schema["properties"].items()]
    for part, definition in schema["$defs"].items():
        inner = definition.get("properties", {})
        found += [(f"{part}.{name}", key) for name, key in inner.items()]
    return found


def _inner(key: dict[str, Any]) -> set[str]:
    return {word for each in key.get("anyOf", []) for word in each}
