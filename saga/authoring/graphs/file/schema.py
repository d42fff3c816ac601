"""The JSON Schema of contract files, for editors: made of the models of the format.

A wrapper may hold what stands one level up as well, so each key of a wrapper refers to the key
above it. Names are only texts here; `saga contract check FILE` knows what they mean.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

from saga.authoring.graphs.file import format as form

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FILE: Final = "contract.schema.json"
_DESCRIPTIONS: Final = {
    "workflow_coordination": "a wrapper: what is in it may stand one level up",
    "workflow_definition": "a wrapper: what is in it may stand one level up",
    "execution_graph": "a wrapper of the nodes: they may stand one level up",
    "intent_consumption": "a wrapper of the routing table: it may stand one level up",
    "step_config": "a wrapper: what is in it may stand one level up",
}
Schema = dict[str, Any]


def contract_schema() -> Schema:
    """The schema of a contract file, in either layout."""
    schema = form.ContractFile.model_json_schema(by_alias=True)
    definitions: Schema = schema.pop("$defs")
    for definition in (schema, *definitions.values()):
        _tidy(definition)
    node = definitions["Node"]
    inner = {key: value for key, value in node["properties"].items() if _may_be_inner(key)}
    node["properties"][form.NODE_WRAPPER] = _wrapper(form.NODE_WRAPPER, inner)
    properties: Schema = schema["properties"]
    whole = {**properties}
    for name in reversed(tuple(form.WRAPPERS)):
        members = {key: whole[key] for key in form.WRAPPERS[name]}
        whole[name] = properties[name] = _wrapper(name, members)
    del schema["required"]
    return {
        "$schema": DIALECT,
        "title": "A saga as a contract graph",
        "description": schema.pop("description"),
        **schema,
        "allOf": [
            {"anyOf": [{"required": [key]} for key in keys]}
            for keys in (
                ["nodes", "execution_graph", "workflow_definition", "workflow_coordination"],
                ["name", *_NAMED_IN],
                ["version", "workflow_version", *_NAMED_IN[1:]],
            )
        ],
        "$defs": definitions,
    }


_NAMED_IN: Final = (
    *("workflow_name", "workflow_metadata", "workflow_definition", "workflow_coordination"),
)


def schema_text() -> str:
    return json.dumps(contract_schema(), indent=2, ensure_ascii=False) + "\n"


def shipped_schema() -> str:
    """The text of the file that is installed with saga."""
    return files(__package__).joinpath(FILE).read_text("utf-8")


def _may_be_inner(key: str) -> bool:
    return key not in form.NOT_IN_STEP_CONFIG


def _wrapper(name: str, members: Schema) -> Schema:
    return {
        "type": "object",
        "description": _DESCRIPTIONS[name],
        "additionalProperties": False,
        "properties": members,
    }


def _tidy(schema: Schema) -> None:
    """Leave out what pydantic says beside: titles made of names, and nulls that mean nothing."""
    schema.pop("title", None)
    for key, value in schema.get("properties", {}).items():
        value.pop("title", None)
        schema["properties"][key] = _without_null(value)


def _without_null(value: Schema) -> Schema:
    """A key that is not given, and not one that is null: an empty value is no value."""
    alternatives = value.get("anyOf")
    is_meant = "`null`" in value.get("description", "")
    if is_meant or value.get("default", ...) is not None or not isinstance(alternatives, list):
        return value
    others = [each for each in alternatives if each != {"type": "null"}]
    rest = {key: each for key, each in value.items() if key not in {"anyOf", "default"}}
    if len(others) != 1:
        return {"anyOf": others, **rest}
    return {**others[0], **rest}
