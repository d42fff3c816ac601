"""Services without the SDK take part in sagas, on a real Kafka, as processes of their own."""

import ast
import asyncio
import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples import orders
from saga.core.status import SagaStatus
from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
PLAIN = ["plain_aiokafka.py", "plain_faststream.py"]
LINES_MAX = 40


@contextlib.contextmanager
def running(*arguments: str):
    """A program, until the end of the block; that it still runs then is part of the test."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
    try:
        yield process
        assert process.poll() is None, f"{arguments} has ended by itself"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_services_import_nothing_of_ours(name: str) -> None:
    """They show the wire, not the SDK."""
    tree = ast.parse((ROOT / "examples" / name).read_text("utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]

    assert names
    assert [name for name in names if re.match(r"(saga|domain|topics|examples)\b", name)] == []


def test_the_plain_script_is_short() -> None:
    """Forty lines, as the README of the examples says."""
    text = (ROOT / "examples" / "plain_aiokafka.py").read_text("utf-8")

    assert len(text.splitlines()) <= LINES_MAX


async def test_plain_services_take_part_in_a_saga(kafka, namespace: str, tmp_path: Path) -> None:
    """One order goes through, and each service refuses one; the first undoes its part then."""
    service = orders.app.service(
        bus=kafka.url,
        store=f"sqlite:///{tmp_path}/saga.db",
        namespace=namespace,
        partitions=2,
    )
    placed = [
        orders.OrderPlaced(order_id="fine", amount=40),
        orders.OrderPlaced(order_id="dear", amount=4_000),
        orders.OrderPlaced(order_id="far", amount=40, place="Nowhere"),
    ]
    async with service:
        with contextlib.ExitStack() as programs:
            for name in PLAIN:
                prefix = f"dev.{namespace}"
                programs.enter_context(running(f"examples/{name}", kafka.bootstrap, prefix))
            sagas = [await service.publish(order) for order in placed]
            fine, dear, far = await asyncio.gather(
                *(service.outcome(saga, timeout=HANG_S) for saga in sagas)
            )
            undone = await service.catalogue.summaries([sagas[2]])

    assert fine.status is SagaStatus.COMPLETED
    assert fine.event == orders.OrderConfirmed(order_id="fine", receipt="r-fine")
    assert (dear.status, dear.event.reason) == (SagaStatus.ROLLED_BACK, "over the limit")
    assert (far.status, far.event.reason) == (SagaStatus.ROLLED_BACK, "there is no such place")
    assert [summary.status for summary in undone] == [SagaStatus.ROLLED_BACK]
