"""Whatever is in a file, checking it ends, with mistakes that have places or with none at all."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from saga.authoring.graphs.definition import check_file
from saga.authoring.graphs.file.mistakes import in_order
from tests.authoring.graphs.orders import MODELS, ORDER

PIECES = st.sampled_from(
    [
        *("", "{", "}", "[", "]", ":", ",", "-", "#", "&a ", "*a", "!!x ", "<<: ", "'", '"', "\n"),
        *(" null", " ~", " no", " 010", " 2024-01-01", " 1e400", " 9999999999999999999", " true"),
        *("nodes:", "  - ", "node_id: pay", "depends_on: [x, ship]", "with: {a: ${", "${pay.x}"),
        *("result: 1", "for_each: placed", "undo: {intent: a.b}", "kind: pivot", "set: {a: b}"),
        *("messages: {a.b: {fields: {c: str?}}}", "signals: {x: [1]}", "step_config: {", "\u2028"),
        *("execution_graph: {nodes: 5}", "coordination_rules: 5", "retry: {attempts: x}", "on: 5"),
        *("intent_routing_table: {a: b}", "published_events: [{topic: x}]", "handler_routing: {}"),
        *("event_pattern: 5", "event_pattern: []", "child: orders.order-placed", "signal: {a: 1}"),
    ]
)
EDITS = st.lists(st.tuples(st.integers(0, len(ORDER)), st.integers(0, 30), PIECES), max_size=4)


def check(data: bytes) -> None:
    shaped, found = check_file("order.yaml", data, MODELS)

    lines = data.count(b"\n") + 2
    assert shaped is not None or found
    assert found == in_order(found)
    assert all(1 <= each.place.line <= lines and each.place.column >= 1 for each in found)
    assert all(each.message and "\n" not in each.message for each in found)


@settings(max_examples=300, deadline=None)
@given(EDITS)
def test_an_order_that_was_edited_blindly(edits: list[tuple[int, int, str]]) -> None:
    text = ORDER
    for at, length, piece in edits:
        text = text[:at] + piece + text[at + length :]

    check(text.encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    check(data)


KEYS = st.sampled_from(
    [
        *("name", "version", "nodes", "node_id", "intent", "with", "undo", "retry", "messages"),
        *("fields", "signals", "outcome", "event", "require", "that", "set", "depends_on"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
JSON = st.recursive(
    SCALARS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_anything_that_json_can_say(value: object) -> None:
    """JSON is YAML, so keys hold whatever they should not."""
    check(json.dumps(value).encode())
