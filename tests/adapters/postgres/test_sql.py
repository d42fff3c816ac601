"""Handlers' SQL: what is a parameter, what is none, and what is refused. The inbox's statements."""

import pytest

from saga.adapters.postgres.inbox import Inbox
from saga.adapters.postgres.sql import parsed
from saga.ports.effects_store import InboxWrite
from saga.testing.effects_store_suite import inbox_row

TRANSLATED = [
    ("SELECT :a, :b, :a", "SELECT $1, $2, $1", ("a", "b")),
    ("SELECT (:a)", "SELECT ($1)", ("a",)),
    ("SELECT :straße", "SELECT $1", ("straße",)),
    ("SELECT 'x :a', :b", "SELECT 'x :a', $1", ("b",)),
    ("SELECT 'it''s :a', :b", "SELECT 'it''s :a', $1", ("b",)),
    ("SELECT 'back\\', :b, ':c'", "SELECT 'back\\', $1, ':c'", ("b",)),
    ("SELECT E'it\\'s :a', :b", "SELECT E'it\\'s :a', $1", ("b",)),
    ("SELECT note'x\\', :b", "SELECT note'x\\', $1", ("b",)),
    (
        'SELECT "a :b" FROM t WHERE "c""d:e" = :f',
        'SELECT "a :b" FROM t WHERE "c""d:e" = $1',
        ("f",),
    ),
    ("SELECT :a::text, b::int", "SELECT $1::text, b::int", ("a",)),
    ("SELECT f(x := :a, y => :b)", "SELECT f(x := $1, y => $2)", ("a", "b")),
    ("SELECT 1 -- :a 'it\n, :b", "SELECT 1 -- :a 'it\n, $1", ("b",)),
    ("SELECT 1 /* :a /* ' */ :b */, :c", "SELECT 1 /* :a /* ' */ :b */, $1", ("c",)),
    ("SELECT $$ :a ' $$, :b", "SELECT $$ :a ' $$, $1", ("b",)),
    ("SELECT $x$ :a $$ $y$ $x$, :b", "SELECT $x$ :a $$ $y$ $x$, $1", ("b",)),
    ("SELECT tag$x$, :b, tag$x$", "SELECT tag$x$, $1, tag$x$", ("b",)),
    ("SELECT a % b, '100%', :c", "SELECT a % b, '100%', $1", ("c",)),
    ("SELECT j ? 'a', j @> :b", "SELECT j ? 'a', j @> $1", ("b",)),
    ("SELECT ':a", "SELECT ':a", ()),
    ("SELECT ':a'', :b", "SELECT ':a'', :b", ()),
    ("SELECT E':a \\", "SELECT E':a \\", ()),
    ('SELECT ":a', 'SELECT ":a', ()),
    ("SELECT 1 /* :a", "SELECT 1 /* :a", ()),
    ("SELECT $$ :a", "SELECT $$ :a", ()),
    ("SELECT TIME '12:30', :a", "SELECT TIME '12:30', $1", ("a",)),
]


@pytest.mark.parametrize(("sql", "text", "names"), TRANSLATED)
def test_only_parameters_are_replaced(sql: str, text: str, names: tuple[str, ...]) -> None:
    """Literals, quoted names, comments, dollar quotes, casts and operators stay as they are."""
    statement = parsed(sql)

    assert (statement.text.decode(), statement.names) == (text, names)


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "/* who? */ -- me\n commit and chain",
        "start transaction",
        "ABORT",
        "release savepoint saga_unit",
        "PREPARE TRANSACTION 'x'",
        "ROLLBACK TO SAVEPOINT saga_unit",
    ],
)
def test_the_transaction_is_not_the_handlers_to_end(sql: str) -> None:
    """However it is written."""
    with pytest.raises(ValueError, match="begun and ended by its service"):
        parsed(sql)


def test_a_statement_may_be_prepared_by_a_handler() -> None:
    """Only transactions may not."""
    assert parsed("PREPARE p AS SELECT 1").names == ()


def test_parameters_by_position_are_refused() -> None:
    """They would be mixed up with ours."""
    with pytest.raises(ValueError, match=r"\$1: parameters are written :name"):
        parsed("SELECT $1, :a")


def test_a_saga_is_numbered_once() -> None:
    """Rows that follow its first committed one are one statement."""
    inbox = Inbox()
    first, second = ([InboxWrite(inbox_row(f"s/{step}/do"))] for step in ("first", "second"))

    assert len(inbox.writing(first)) == len(inbox.writing(first)) == 2
    inbox.written(first)
    assert len(inbox.writing(second)) == 1
    assert len(inbox.writing([InboxWrite(inbox_row("t/first/do")), *second])) == 2
