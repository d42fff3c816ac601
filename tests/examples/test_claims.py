"""What documents on orchestration ask for: the table is true, and some of it is held to here."""

import ast
import inspect
import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from examples.machines.payments import app as payments
from examples.machines.tasks import app as tasks
from saga import answer
from saga.errors import Refused
from saga.testing import after, completed, given, issued, refused, replied, signalled
from tests.examples.running import ROOT
from tests.type_checkers import MYPY_CACHE

TABLE = (ROOT / "docs" / "reference" / "claims.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TABLE.splitlines()
    if line.startswith("| ") and not line.startswith("| promise |")
]
DOCUMENTS = 5
ROWS_MIN = 130
TASK = tasks.TaskCreated(task_id="t-1", text="write it down")
AUTHORISED = payments.PaymentAuthorised(payment_id=payments.PaymentId("p-1"))


def what_is_wrong(promise: str, file: str, test: str) -> str | None:
    where, _, name = test.strip("`").partition("::")
    is_there = name.startswith("test_") and name in names_in(where)
    if promise and (ROOT / file.strip("`")).is_file() and is_there:
        return None
    return f"{promise}: {file}, {test}"


@cache
def names_in(file: str) -> set[str]:
    path = ROOT / file
    tree = ast.parse(path.read_text("utf-8") if path.exists() else "")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in ast.walk(tree) if isinstance(each, functions)}


def test_each_claim_has_a_file_and_a_test_that_exist() -> None:
    assert [wrong for row in ROWS if (wrong := what_is_wrong(*row))] == []
    assert len(ROWS) >= ROWS_MIN
    assert TABLE.count("\n## ") == TABLE.count("| promise | file | test |") == DOCUMENTS
    assert len({row[0] for row in ROWS}) == len(ROWS)


def test_results_are_frozen_and_of_a_kind() -> None:
    kinds = set()
    results = TypeAdapter(payments.ProcessPaymentResult)
    required = payments.VerificationRequired(reason=payments.VerificationReason.RISK)
    by_id = [
        result(payment_id=AUTHORISED.payment_id)
        for result in (payments.PaymentNotFound, payments.PaymentProcessed)
    ]
    for result in (*by_id, required):
        kinds.add(result.kind)
        assert isinstance(result.kind, payments.ResultKind)
        with pytest.raises(ValidationError, match="frozen"):
            result.kind = result.kind
        assert results.validate_json(result.model_dump_json()) == result

    assert kinds == set(payments.ResultKind)
    assert set(get_args(payments.ProcessPaymentResult)) == {
        type(each) for each in (*by_id, required)
    }
    with pytest.raises(ValidationError):
        payments.PaymentProcessed(kind="not_found", payment_id=AUTHORISED.payment_id)


def test_a_state_is_asked_without_any_kit() -> None:
    """The same question gets the same answer, and nothing else happens."""
    asked = payments.ProcessPayment(request="1")
    processed = payments.PaymentProcessed(payment_id=AUTHORISED.payment_id)
    given_state = payments.Authorised(payment=AUTHORISED)

    for _ in range(2):
        state, act = given_state.handle(asked)
        assert state == payments.Capturing(payment=AUTHORISED)
        assert act == answer(processed)
    settled, event = state.handle(payments.Captured(receipt="r-1"))
    assert settled == payments.Settled()
    assert event == payments.PaymentSettled(payment_id=AUTHORISED.payment_id, receipt="r-1")


def test_the_payment_runtime_decides_nothing() -> None:
    """Its only question is whether there is such a payment; it computes and raises nothing."""
    source = textwrap.dedent(inspect.getsource(payments.PaymentRuntime.run))
    nodes = list(ast.walk(ast.parse(source)))
    branches = [ast.unparse(node.test) for node in nodes if isinstance(node, ast.If)]
    computing = (ast.BinOp, ast.BoolOp, ast.Raise, ast.Try, ast.For, ast.While, ast.IfExp)

    assert branches == ["await self.service.find(f'payment/{payment_id}') is None"]
    assert [node for node in nodes if isinstance(node, computing)] == []
    assert not issubclass(payments.PaymentRuntime, BaseModel)
    assert list(inspect.signature(payments.PaymentRuntime).parameters) == ["service"]
    main = ast.walk(ast.parse(inspect.getsource(payments.main)))
    assert any(isinstance(node, ast.Match) for node in main)


def test_a_type_checker_tells_ids_from_texts(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from examples.machines.payments.app import PaymentId, PaymentNotFound\n"
        'PaymentNotFound(payment_id=PaymentId("p-1"))\n'
        'PaymentNotFound(payment_id="p-1")  # type: ignore[arg-type]\n'
    )
    words = ["-m", "mypy", "--strict", "--config-file=", f"--cache-dir={MYPY_CACHE}", "user.py"]
    checked = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_task_goes_through_its_life_one_service_at_a_time() -> None:
    (
        given(tasks.task, TASK)
        .in_state(tasks.Created)
        .then(issued(tasks.ValidateTask(task_id="t-1", text="write it down")))
        .when(replied(tasks.ValidateTask, tasks.TaskValidated(words=3)))
        .in_state(tasks.Validated)
        .then()
        .when(signalled("start", {}))
        .in_state(tasks.Processing)
        .then(issued(tasks.ProcessTask(task_id="t-1", text="write it down")))
        .when(replied(tasks.ProcessTask, tasks.TaskProcessed(result="DONE")))
        .in_state(tasks.Processing)
        .then(issued(tasks.PersistTask(task_id="t-1", result="DONE")))
        .when(replied(tasks.PersistTask))
        .in_state(tasks.Completed)
        .then(completed(tasks.TaskCompleted(task_id="t-1", result="DONE")))
    )


def test_a_task_may_fail_in_each_state_but_the_last() -> None:
    created = given(tasks.task, TASK)
    validated = given(tasks.task, TASK).when(
        replied(tasks.ValidateTask, tasks.TaskValidated(words=3))
    )
    processing = (
        given(tasks.task, TASK)
        .when(replied(tasks.ValidateTask, tasks.TaskValidated(words=3)))
        .when(signalled("start", {}))
    )
    for state, scenario, what in (
        (tasks.Created, created, refused(tasks.ValidateTask, "no")),
        (tasks.Validated, validated, after("1h")),
        (tasks.Processing, processing, refused(tasks.ProcessTask, "no")),
    ):
        scenario.in_state(state).when(what).in_state(tasks.Failed).then_status("completed")

    last = {state for row in tasks.TASK.values() for state in row.values()} - tasks.TASK.keys()
    assert last == {tasks.Completed, tasks.Failed}


async def test_the_services_of_a_task_keep_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """They are functions of what they are given: called by themselves, and again."""
    nowhere = SimpleNamespace()
    for _ in range(2):
        asked = tasks.ValidateTask(task_id="t-1", text="write it down")
        assert await tasks.validate(asked, nowhere) == tasks.TaskValidated(words=3)
        with pytest.raises(Refused, match="needs a text"):
            await tasks.validate(tasks.ValidateTask(task_id="t-1", text=" "), nowhere)
        work = tasks.ProcessTask(task_id="t-1", text="x")
        assert await tasks.process(work, nowhere) == tasks.TaskProcessed(result="X")
        assert await tasks.persist(tasks.PersistTask(task_id="t-1", result="X"), nowhere) is None

    assert capsys.readouterr().out == 2 * "t-1: kept 'X'\n"
    for service in (tasks.validate, tasks.process, tasks.persist):
        assert inspect.getclosurevars(service).nonlocals == {}
        assert not [node for node in ast.walk(parsed(service)) if isinstance(node, ast.Global)]


def parsed(function: object) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))
