"""The contract graphs among the examples do what they say, also killed in the middle."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from saga import SagaApp
from saga.authoring.graphs.definition import GraphDefinition
from saga.testing import (
    after,
    completed,
    given,
    issued,
    published,
    refused,
    replied,
    rolled_back,
    undo_issued,
)
from tests.examples import no_python
from tests.examples.running import (
    PROCESSING,
    ROOT,
    kill_behind_each_commit,
    kill_in_the_middle,
    run,
    run_as_printed,
    said,
)

GRAPHS = ROOT / "examples" / "graphs"
AS_GIVEN = Path(__file__).with_name("order_contract_as_given.yaml")
MODULES = {
    "order": "examples.graphs.order.app",
    "coordination": "examples.graphs.coordination.app",
    "order_processing": "myapp.app",
}
"""By folder: what is run there."""


@pytest.mark.parametrize("folder", MODULES)
def test_an_example_ends_as_it_says_although_it_is_killed_on_the_way(
    folder: str, pair: dict[str, str], tmp_path: Path
) -> None:
    """Killed in the middle of its run, it ends and prints as where it is run as its README says."""
    unharmed = tmp_path / "unharmed"
    prints = run_as_printed(unharmed, GRAPHS / folder / "README.md")
    printed = kill_in_the_middle(tmp_path, MODULES[folder], unharmed, pair)

    assert said(prints, printed) == prints


@pytest.mark.long
@pytest.mark.parametrize("module", [*MODULES.values(), no_python.__name__])
def test_behind_whichever_commit_an_example_is_killed_it_ends_the_same(
    module: str, tmp_path: Path
) -> None:
    kill_behind_each_commit(tmp_path, module)


def test_an_application_without_python_ends_as_it_says_although_it_is_killed_on_the_way(
    pair: dict[str, str], tmp_path: Path
) -> None:
    """Orchestrator and services die together; see `tests.examples.no_python`."""
    unharmed = tmp_path / "unharmed"
    unharmed.mkdir()
    ran = run(unharmed, "-m", no_python.__name__)
    assert ran.returncode == 0, ran.stderr
    printed = kill_in_the_middle(tmp_path, no_python.__name__, unharmed, pair)

    prints = [
        "completed order_id='o-1' receipt='r-o-1' grams=300",
        "rolled_back order_id='o-2' reason='too heavy' code='too-heavy'",
    ]
    assert ran.stdout.splitlines() == printed == prints


def test_an_application_without_python_is_checked_as_its_page_says(tmp_path: Path) -> None:
    run_as_printed(tmp_path, GRAPHS / "no_python" / "README.md")


@pytest.mark.parametrize(
    ("folder", "app"),
    [("order", "examples.graphs.order.app:app"), ("no_python", str(no_python.FILE))],
)
def test_the_lock_file_of_this_repository_leaves_an_example_alone(folder: str, app: str) -> None:
    """Its page is followed from here, where a check knows the locked contracts, too."""
    file = str(GRAPHS / folder / "order.yaml")

    checked = run(ROOT, "-m", "saga", "contract", "check", file, "--app", app)

    assert checked.returncode == 0, checked.stdout


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


with importable(PROCESSING):
    events = import_module("myapp.models.events")
    processing: SagaApp = import_module("myapp.app").app
    _handlers = "myapp.nodes.node_order_workflow_orchestrator.handlers"
    HandlerOrderPlaced = import_module(f"{_handlers}.handler_order_placed").HandlerOrderPlaced
    HandlerOrderFulfilled = import_module(
        f"{_handlers}.handler_order_fulfilled"
    ).HandlerOrderFulfilled


class TestHandlerOrderPlaced:
    """The handler by itself: it is a plain function of an event."""

    def test_valid_order_emits_events_and_intents(self) -> None:
        handler = HandlerOrderPlaced()
        item = events.Item(price=10.0, quantity=2)
        result = handler.handle(
            events.ModelOrderPlacedEvent(order_id="o1", customer_id="c1", items=[item])
        )

        assert result.result is None
        assert len(result.events) == 1
        assert isinstance(result.events[0], events.OrderValidated)
        assert result.events[0].total == 20
        assert len(result.intents) == 1
        assert isinstance(result.intents[0], events.ProcessPayment)

    def test_missing_items_emits_failure_event(self) -> None:
        handler = HandlerOrderPlaced()
        result = handler.handle(events.ModelOrderPlacedEvent(order_id="o1"))

        assert result.result is None
        assert isinstance(result.events[0], events.OrderValidationFailed)
        assert result.intents == ()


def placed(**fields: Any) -> Any:
    items = [events.Item(price=10.0, quantity=2)]
    return events.ModelOrderPlacedEvent(order_id="o-1", **({"items": items} | fields))


def test_an_order_is_paid_fulfilled_and_told_to_be_complete() -> None:
    payment = events.ProcessPayment(order_id="o-1", amount=20)
    (
        given(processing.sagas[0])
        .when(placed())
        .then(published(events.OrderValidated(order_id="o-1", total=20)), issued(payment))
        .when(replied(events.ProcessPayment))
        .then(issued(events.StartFulfillment(order_id="o-1")))
        .when(replied(events.StartFulfillment))
        .then()
        .when(events.ModelOrderFulfilledEvent(order_id="o-1"))
        .then(published(events.OrderCompleted(order_id="o-1")), completed())
    )


def test_an_order_without_items_is_told() -> None:
    """Nothing is emitted for the payment, so what comes behind it is skipped, too."""
    why = events.OrderValidationFailed(order_id="o-1", reason="Missing order_id or items")

    given(processing.sagas[0]).when(placed(items=[])).then(published(why), completed())


CHANGED = {
    "input_model.name": "the trigger is the first node's event",
    "input_model.module": "the same",
    "output_model.name": "an orchestrator has no typed result",
    "output_model.module": "the same",
    **{
        f"nodes.start_fulfillment.{key}": "its route was taken by no node"
        for key in ("node_type", "depends_on.0", "description", "step_config.intent_filter")
    },
    **{
        f"nodes.order_fulfilled.{key}": "its handler would never have run"
        for key in ("node_type", "depends_on.0", "description", "step_config.event_pattern.0")
    },
    "handlers.HandlerOrderPlaced.output_events.0": "one name for an event, that of its class",
    "handlers.HandlerOrderPlaced.output_events.1": "an order without items is told",
    "handlers.HandlerOrderFulfilled.output_events.0": "one name for an event, that of its class",
    "published.OrderValidationFailed.topic": "an order without items is told",
}
"""What differs from the contract as it was given, and why."""


def test_the_contract_is_the_given_one_but_for_what_is_said() -> None:
    before, now = (_flat(yaml.safe_load(path.read_text("utf-8"))) for path in _both())

    different = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    assert different == set(CHANGED)


def _both() -> tuple[Path, Path]:
    return AS_GIVEN, PROCESSING / "contract.yaml"


def _flat(said: Any) -> dict[str, Any]:
    """Every value by its path; what is in a list, by the name that it has."""
    found: dict[str, Any] = {}
    waiting = [("", said)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            waiting += [(f"{path}.{key}", each) for key, each in node.items()]
        elif isinstance(node, list):
            waiting += [(f"{path}.{_named(each, at)}", each) for at, each in enumerate(node)]
        else:
            found[_short(path)] = node
    return {key: value for key, value in found.items() if not key.endswith(_NAMES)}


_NAMES = (".node_id", ".handler.name", ".event_type")


def _named(item: Any, at: int) -> str:
    if not isinstance(item, dict):
        return str(at)
    handler = item.get("handler", {})
    return str(item.get("node_id") or handler.get("name") or item.get("event_type") or at)


def _short(path: str) -> str:
    for long, short in (
        (".workflow_coordination.workflow_definition.execution_graph.nodes", "nodes"),
        (".handler_routing.handlers", "handlers"),
        (".published_events", "published"),
    ):
        if path.startswith(long):
            return path.replace(long, short, 1)
    return path.removeprefix(".")


coordination = import_module("examples.graphs.coordination.app")


def saga_of(name: str) -> GraphDefinition:
    return next(saga for saga in coordination.app.sagas if saga.name == name)


def test_in_sequence_each_is_given_what_the_one_before_gave() -> None:
    c = coordination
    (
        given(saga_of("document"))
        .when(c.DocumentArrived(document_id="d-1", text="a b"))
        .then(issued(c.Validate(text="a b")))
        .when(replied(c.Validate, c.Validated(words=2)))
        .then(issued(c.Transform(document_id="d-1", text="a b")))
        .when(replied(c.Transform, c.Transformed(text="A B")))
        .then(issued(c.File(document_id="d-1", text="A B")))
        .when(refused(c.File))
        .then(undo_issued(c.Discard(document_id="d-1")))
    )


def test_in_parallel_one_may_say_no() -> None:
    c = coordination
    quotes = given(saga_of("quote")).when(c.QuoteWanted(quote_id="q-1", tonnes=2))

    quotes.then(
        *(issued(c.Ask(quote_id="q-1", carrier=one, tonnes=2)) for one in ("rail", "road", "sea"))
    )
    quotes.when(refused("sea"), replied("road", c.Offered(price=7)))
    quotes.when(replied("rail", c.Offered(price=9)))
    quotes.then(completed(c.Quoted(quote_id="q-1", cheapest=7, by_land=9)))


@pytest.mark.parametrize(
    ("kind", "step"), [("emergency", "emergency"), ("routine", "routine"), ("odd", "other")]
)
def test_by_condition_one_of_several_ways(kind: str, step: str) -> None:
    c = coordination
    operation = given(saga_of("operation"), c.OperationAsked(operation_id="p-1", kind=kind))

    assert list(operation.state.steps) == [step]
    operation.when(replied(step, c.Handled(by="us")))
    operation.then(completed(c.OperationDone(operation_id="p-1", by="us")))


def test_by_events_a_failure_that_is_told_rolls_back() -> None:
    c = coordination
    started = given(saga_of("import"), c.ImportWanted(import_id="i-1"))

    started.when(c.DataReady(import_id="i-1", rows=3))
    started.then(issued(c.Load(import_id="i-1", rows=3)))
    started.when(replied(c.Load), c.ProcessFailed(import_id="i-1", error="disk full"))
    started.then(undo_issued(c.Unload(import_id="i-1")))
    started.when(replied(c.Unload)).then(
        rolled_back(c.ImportFailed(import_id="i-1", reason="the service has failed"), code="failed")
    )


def test_by_events_silence_rolls_back() -> None:
    c = coordination
    started = given(saga_of("import"), c.ImportWanted(import_id="i-1"))

    started.when(after("1h")).then_status("rolled_back")
