"""`replay`: the deploy gate says of every stored history whether today's code decides the same."""

import pytest

from saga.core.identity import saga_id
from tests.console.conftest import call
from tests.console.toys import TOYS


def replay(*words):
    """In this process; `test_gate.py` has the others."""
    return call("replay", "--jobs", "0", *words)


def test_unchanged_code_decides_the_same(looking):
    called = replay("--json")
    *rows, summary = called.rows

    assert called.code == 0
    assert [list(row)[:4] for row in rows] == [["id", "entries", "ok", "difference"]] * 4
    assert all(row["ok"] and row["difference"] is None for row in rows)
    assert (summary["sagas"], summary["ok"], summary["different"]) == (4, True, 0)
    assert summary["entries"] == sum(row["entries"] for row in rows)
    assert summary["entries_per_s"] > 0


def test_changed_code_is_found_out_and_both_sides_named(looking):
    changed = TOYS.replace("amount=placed.amount), undo", "amount=placed.amount + 1), undo")
    (looking / "toys.py").write_text(changed)

    called = replay("--json")
    *rows, summary = called.rows

    assert called.code == 1
    assert (summary["ok"], summary["different"]) == (False, 3)
    difference = {row["id"]: row["difference"] for row in rows}[saga_id("order", "far-1")]
    assert difference["version"] == 2
    assert '"amount":2' in difference["recorded"]
    assert '"amount":3' in difference["decided"]


def test_a_version_that_is_gone_is_a_difference(looking):
    """A version that histories name may not be removed."""
    (looking / "toys.py").write_text(TOYS.replace('"order", version=1', '"order", version=2'))

    called = replay("--definition", "order")

    assert called.code == 1
    assert "no such version" in called.out


def test_one_or_the_open_ones_can_be_chosen(looking):
    assert replay("order/o-1", "--json").rows[-1]["sagas"] == 1
    assert replay("--definition", "leave", "--json").rows[-1]["sagas"] == 1
    assert replay("--open", "--json").rows[-1]["sagas"] == 1
    assert replay("order/nobody").code == 1
    assert replay("order/o-1", "--open").code == 2


def test_code_that_raises_is_a_finding(looking):
    broken = TOYS.replace("    await ctx.wait(", '    raise KeyError("gone")\n    await ctx.wait(')
    (looking / "toys.py").write_text(broken)

    called = replay("--json")
    *rows, summary = called.rows

    assert (called.code, summary["sagas"], summary["different"]) == (1, 4, 1)
    [decided] = [row["difference"]["decided"] for row in rows if not row["ok"]]
    assert "KeyError" in decided


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise __import__('asyncio').CancelledError", "CancelledError"),
        ("raise BaseException('x')", "BaseException: x"),
        ("raise type('Mute', (Exception,), {'__str__': lambda _: 1 / 0})()", "Mute (its text"),
        ("await __import__('asyncio').sleep(1)", "no asyncio"),
        ("raise ValueError('no \\ud800' + 1_000_000 * 'x')", "no \\ud800xxx"),
    ],
)
def test_whatever_code_raises_is_a_finding(looking, raised, said):
    """A verdict and an exit code, for this saga and all others."""
    broken = TOYS.replace("    await ctx.wait(", f"    {raised}\n    await ctx.wait(")
    (looking / "toys.py").write_text(broken)

    called = replay("--json")
    *rows, summary = called.rows

    assert (called.code, summary["sagas"], summary["different"]) == (1, 4, 1)
    [decided] = [row["difference"]["decided"] for row in rows if not row["ok"]]
    assert said in decided
    assert len(decided) < 5_000
    assert replay().code == 1


def test_a_finally_that_raises_does_not_end_a_replay(looking):
    """It runs when the replayed saga is let go of, and is nobody's decision."""
    wait = '    await ctx.wait("approval", Approval, timeout="1h")\n'
    assert wait in TOYS
    tried = f"    try:\n    {wait}    finally:\n        raise SystemExit(3)\n"
    (looking / "toys.py").write_text(TOYS.replace(wait, tried))

    called = replay("--json")
    assert (called.code, called.rows[-1]["different"]) == (0, 0)
