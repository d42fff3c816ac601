"""Five examples beside the same elsewhere: theirs is real, and the numbers of the page are true."""

import ast
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from tests.examples.numbered import FOLDER, file_of, said_of
from tests.examples.running import ROOT, run
from tests.patience import HANG_S

PAGE = (ROOT / "docs" / "explanation" / "beside-others.md").read_text("utf-8")
PEERS = {"temporal": "temporalio", "dbos": "dbos", "restate": "restate-sdk"}
"""Folders below `examples/peers/`, and the packages that they need."""
PROCESSES = (
    "01_travel_booking",
    "03_human_approval",
    "04_best_offer",
    "05_subscription",
    "09_credit_limit",
)
LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}
CONTRACTS = {"Event", "Intent", "BaseModel"}
TAKEN = {
    "temporal": ["Trip", "Expense", "Purchase", "Subscription", "Order"],
    "dbos": ["travel", "office", "desks", "magazine", "sales"],
    "restate": ["Trip", "Expense", "Suppliers Purchase", "Subscription", "Customer Order"],
}
"""Names of workflows, applications and services, as the packages know them."""
DBOS_PRINTS = {
    "01_travel_booking": [
        "rome ['flight to rome', 'hotel in rome', 'car in rome']",
        "oslo is off: no car left",
    ],
    "03_human_approval": [
        "e-1 80 granted by ann",
        "e-2 900 granted by board",
        "e-3 rejected: nobody has answered",
    ],
    "04_best_offer": ["desk: bought from bolt for 30"],
    "05_subscription": [*(f"month {month}: charged" for month in (1, 2, 3)), "the end: 3"],
    "09_credit_limit": [
        "approved: 60 of 100, 40 are left",
        "rejected: 60 are too much, 40 are left",
        "rejected: nobody is no customer",
    ],
}


def peer_file(peer: str, name: str) -> Path:
    return FOLDER / "peers" / peer / f"{name}.py"


def code_lines(file: Path) -> set[int]:
    """The numbers of the lines with code on them: no blank ones, comments or docstrings."""
    with file.open("rb") as source:
        tokens = [token for token in tokenize.tokenize(source.readline) if token.type not in LAYOUT]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=last):
                lines -= set(range(first, (last or first) + 1))
    return lines


def contract_lines(file: Path) -> set[int]:
    """Those of the classes that are messages between services."""
    lines: set[int] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and CONTRACTS & {
            name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)
        }:
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines & code_lines(file)


def row_of(name: str) -> str:
    ours = file_of(name)
    counts = [
        len(code_lines(ours)),
        len(code_lines(ours) - contract_lines(ours)),
        *(len(code_lines(peer_file(peer, name))) for peer in PEERS),
    ]
    return f"| `examples/{name}.py` | {' | '.join(map(str, counts))} |"


def test_the_page_has_the_lines_that_there_are() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `examples/0")]

    assert rows == [row_of(name) for name in PROCESSES]


def test_each_peer_has_the_same_five_and_is_named_on_the_page() -> None:
    for peer, package in PEERS.items():
        files = sorted(path.stem for path in (FOLDER / "peers" / peer).glob("[0-9]*.py"))
        assert files == list(PROCESSES)
        assert f"`{package}`" in PAGE


@pytest.mark.parametrize("peer", PEERS)
def test_the_peers_own_packages_take_what_we_have_written(peer: str, tmp_path: Path) -> None:
    """As a worker, a process or a server of theirs does it first; see `peers`."""
    for name in PROCESSES:
        (tmp_path / f"example_{name}.py").write_bytes(peer_file(peer, name).read_bytes())

    ran = run(tmp_path, "-m", "tests.examples.peers", peer)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        f"example_{name} {taken}" for name, taken in zip(PROCESSES, TAKEN[peer], strict=True)
    ]


@pytest.mark.long
@pytest.mark.parametrize("peer", PEERS)
def test_the_peers_own_types_fit(peer: str, tmp_path: Path) -> None:
    files = [str(peer_file(peer, name)) for name in PROCESSES]

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=5 * HANG_S,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"no issues found in {len(files)} source files" in checked.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", PROCESSES)
def test_what_needs_no_server_runs(name: str, tmp_path: Path) -> None:
    """DBOS on files, as ours; it comes to the same."""
    file = peer_file("dbos", name)
    assert f"python examples/peers/dbos/{file.name}" in file.read_text("utf-8")

    ran = run(tmp_path, str(file))

    assert ran.returncode == 0, ran.stderr
    assert sorted(ran.stdout.splitlines()) == sorted(DBOS_PRINTS[name])  # a race is a race


def test_both_tell_the_same_story() -> None:
    """What they print differs in form; what has come of it does not."""
    assert "80 granted by ann" in said_of("03_human_approval").prints
    assert DBOS_PRINTS["04_best_offer"][0] in said_of("04_best_offer").prints
    ours = said_of("09_credit_limit").prints[:2]
    assert ours == DBOS_PRINTS["09_credit_limit"][:2]
