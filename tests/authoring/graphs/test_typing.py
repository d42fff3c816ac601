"""What a user's type checker makes of handlers: a result is found before anything runs."""

import pytest

from tests.type_checkers import check_with_mypy

pytestmark = pytest.mark.slow

USER = """\
from pathlib import Path

from saga import Event, Intent, Output, SagaApp, contract


class Placed(Event, topic="a.placed", version=1, key="k"):
    k: str


class Do(Intent[None], topic="a.do", version=1):
    k: str


class HandlerPlaced:
    def handle(self, event: Placed) -> Output:
        return Output(events=[event], intents=[Do(k=event.k)])


def placed(event: Placed) -> Output:
    return Output()


def with_result(event: Placed) -> Output:
    return Output(result={"status": "done"})  # type: ignore[call-arg]


def with_projections(event: Placed) -> Output:
    return Output(projections=[event])  # type: ignore[call-arg]


def a_dict(event: Placed) -> Output:
    return {"events": []}  # type: ignore[return-value]


def confused(event: Placed) -> Output:
    return Output(events=[Do(k="k")], intents=[event])  # type: ignore[list-item]


app = SagaApp(sagas=[contract(Path("order.yaml"), handlers=[HandlerPlaced(), placed])])
contract(7)  # type: ignore[arg-type]
"""


def test_mypy_finds_the_mistakes_of_a_handler(tmp_path):
    check_with_mypy(tmp_path, USER)
