"""The reference of contract files is made of the models, and its blocks mean what it says."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from saga.authoring.graphs import ContractGraph
from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.mistakes import MistakeCode
from saga.errors import ContractFileError
from tests.authoring.graphs.orders import MODELS

DOCS = Path(__file__).parents[3] / "docs"
REFERENCE = DOCS / "reference" / "contract-files.md"
PARTS: dict[str, type[BaseModel]] = {
    "A file": form.ContractFile,
    "A node": form.Node,
    "`retry` and `undo_retry`": form.RetryPolicy,
    "`require`": form.Require,
    "`undo`, where it is no name": form.Undo,
    "`outcome` and `rolled_back`, where they are no names": form.Outgoing,
    "`coordination_rules`": form.CoordinationRules,
    "`messages`, each": form.MessageFields,
    "`published_events`, each": form.PublishedEvent,
    "`handler_routing`": form.HandlerRouting,
    "`handler_routing.handlers`, each": form.Route,
    "`event_model` and `handler`": form.Reference,
    "`workflow_metadata`": form.WorkflowMetadata,
}


def tables() -> str:
    """The part of the page that is made: a table for each model. Print it to renew the page."""
    lines: list[str] = []
    for title, model in PARTS.items():
        lines += [f"### {title}", "", "| key | default | meaning |", "|---|---|---|"]
        for key, field in form.keys_of(model).items():
            default = "required" if field.is_required() else _default(field)
            lines.append(f"| `{key}` | {default} | {field.description} |")
        lines.append("")
    return "\n".join(lines).strip()


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    match value:
        case None | {} | []:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case BaseModel():
            return "see below"
    return f"`{value}`"


def test_the_reference_has_every_key_as_the_models_have_it() -> None:
    assert tables() in REFERENCE.read_text("utf-8")


def test_the_reference_has_every_code() -> None:
    _, _, part = REFERENCE.read_text("utf-8").partition("## Every mistake")
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| ", part, re.MULTILINE)

    assert listed == [code.value for code in MistakeCode]


def test_both_layouts_of_the_page_mean_the_same() -> None:
    wrapped, flat = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text("utf-8"), re.DOTALL)
    prints = {
        ContractGraph("order.yaml", text.encode()).resolve(MODELS).fingerprint
        for text in (wrapped, flat)
    }

    assert yaml.safe_load(wrapped) != yaml.safe_load(flat)
    assert len(prints) == 1


def test_the_tutorial_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "tutorial" / "first-graph.md").read_text("utf-8")
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", text, re.DOTALL)
    page = sys.modules["first_graph"] = ModuleType("first_graph")
    try:
        for number, (kind, block) in enumerate(blocks):
            if kind == "yaml":
                (tmp_path / "order.yaml").write_text(block)
                continue
            source = tmp_path / f"block_{number}.py"
            source.write_text(block)
            exec(compile(block, str(source), "exec"), page.__dict__)  # a page's block
    finally:
        del sys.modules["first_graph"]
    assert sum(kind == "yaml" for kind, _ in blocks) == 3


def test_the_mistake_of_the_tutorial_is_what_is_said() -> None:
    text = (DOCS / "tutorial" / "first-graph.md").read_text("utf-8")
    first = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    said = re.findall(r"```text\n(.*?)\n```", text, re.DOTALL)[0]

    with pytest.raises(ContractFileError) as refusal:
        ContractGraph("order.yaml", first.replace("[pay]", "[paid]").encode())
    assert str(refusal.value) == said
