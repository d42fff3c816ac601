"""The errors of `saga.errors`: all of them are drawn, listed and have a code that stays."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from saga import errors

ROOT = Path(__file__).parents[1]
ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, BaseException)
]
CODES = {
    "ChildRolledBack": "child_rolled_back",
    "AlreadyRecorded": "already_recorded",
    "BusUnavailable": "bus_unavailable",
    "ContractChanged": "contract_changed",
    "ContractFileError": "contract_file",
    "CorruptHistory": "corrupt_history",
    "DefinitionError": "definition",
    "DeliveryError": "delivery",
    "DeterminismWarning": "determinism",
    "DuplicateSaga": "duplicate_saga",
    "HistoryConflict": "history_conflict",
    "MalformedMessage": "malformed_message",
    "MessageError": "message",
    "MessageTooLarge": "message_too_large",
    "RecordsRetracted": "records_retracted",
    "Refused": "refused",
    "OrchestratorOutputError": "orchestrator_output",
    "PausesChanged": "pauses_changed",
    "ReplayMismatch": "replay_mismatch",
    "RollBack": "rolled_back",
    "SagaError": "saga",
    "SchemaDiffers": "schema_differs",
    "SettingsError": "settings",
    "StepFailed": "step_failed",
    "StoreError": "store",
    "StoreForeign": "store_foreign",
    "StoreRefused": "store_refused",
    "StoreTooNew": "store_too_new",
    "StoreUnavailable": "store_unavailable",
    "TaskEnded": "task_ended",
    "TimedOut": "timed_out",
    "TopicMissing": "topic_missing",
    "TransactionEnded": "transaction_ended",
    "UnknownContract": "unknown_contract",
    "UnknownEntry": "unknown_entry",
    "UnknownSaga": "unknown_saga",
    "UpdateRefused": "update_refused",
    "SagaEnded": "saga_ended",
    "UnsupportedVersion": "unsupported_version",
}
INTERNAL = {
    "saga.authoring.exact": "ends the telling of a state, which then has no snapshot",
    "saga.authoring.graphs.expressions.evaluation": "ends an evaluation, whose value is then null",
    "saga.authoring.graphs.expressions.problems": "told with file and line by who reads the graph",
    "saga.console.cli.output": "what a command ends with",
    "saga.testing.world.loop": "a bug in the world, told to whoever runs it",
    "saga.testing.world.process": "ends the tasks of a killed process",
    "saga.effects.contained": "stands for what a task of a handler has raised",
    "saga.runtime.router": "passes between two functions that read a record",
    "saga.runtime.dispatcher": "passes between two functions of a turn",
    "saga.runtime.turns": "passes between two functions of a turn",
    "saga.adapters.kafka.connection": "handed to aiokafka, which wants one of its own",
    "saga.adapters.postgres.database": "translated before a caller sees it",
    "saga.adapters.rows": "named among the rows that could be read",
}
"""Where else classes of errors are, and why none of them reaches a user's `except`."""
SENTENCES = [
    (errors.AlreadyRecorded(("orders[0]",)), "already recorded: orders[0]"),
    (errors.CorruptHistory("s-1", 3, "no JSON"), "saga s-1, entry 3: no JSON"),
    (errors.DefinitionError("no key", where="shop.py:3"), "shop.py:3: no key"),
    (errors.DefinitionError("no key"), "no key"),
    (errors.ContractFileError("order.yaml:1:1: …"), "order.yaml:1:1: …"),
    (errors.OrchestratorOutputError("result"), "`result`: an orchestrator has no result"),
    (errors.HistoryConflict(("s-1", "s-2")), "2 histories have moved on: s-1, s-2"),
    (errors.MalformedMessage("not_json", "no JSON"), "no JSON"),
    (errors.ReplayMismatch(3, "pay", "ship"), "entry 3: the history says pay, the code at hand"),
    (errors.SettingsError("SAGA_BUS", "no such bus"), "SAGA_BUS: no such bus"),
    (errors.TimedOut("approval"), "no signal 'approval' came in time"),
    (errors.TopicMissing("orders"), "there is no topic orders: make it with `saga topics create`"),
    (errors.TopicMissing("orders", 2), "there is no topic orders[2]: make it with"),
    (errors.UnknownSaga("s-1"), "there is no saga s-1"),
]


def test_every_code_is_as_it_was_published():
    assert {cls.__name__: cls.code for cls in ALL} == CODES


def test_codes_are_unique_words_in_snake_case():
    codes = [cls.code for cls in ALL]

    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    drawn = dict(_drawn(errors.__doc__))

    assert set(drawn) == {cls.__name__ for cls in ALL}
    for cls in ALL:
        base = cls.__base__.__name__
        assert drawn[cls.__name__] == (None if base in {"Exception", "UserWarning"} else base)


def test_no_public_error_is_defined_elsewhere():
    elsewhere = set()
    for path in (ROOT / "saga").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and _is_error(node) and module != "saga.errors":
                elsewhere.add(module)

    assert elsewhere == set(INTERNAL)


@pytest.mark.parametrize(("error", "sentence"), SENTENCES)
def test_an_error_is_a_sentence_made_of_its_data(error, sentence):
    assert str(error).startswith(sentence)


def test_an_instance_may_know_a_finer_code():
    assert errors.MalformedMessage("not_json", "no JSON").code == "not_json"
    assert errors.Refused("no", code="limit").code == "limit"
    assert errors.Refused("no").code == errors.Refused.code


def _drawn(text):
    """Each name of the outline with the name that it stands under."""
    above = {}
    for line in text.splitlines():
        found = re.match(r"( *)\* ([A-Z]\w+(?:, [A-Z]\w+)*)(?::|$)", line)
        if found:
            depth = len(found[1]) // 4
            for name in found[2].split(", "):
                above[depth] = name
                yield name, above.get(depth - 1) if depth else None
        elif line.startswith("* "):
            above[0] = None


def _is_error(node):
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    known = {*CODES, "Exception", "BaseException", "RuntimeError", "ValueError"}
    return bool(bases & (known | {"KafkaError"}))
