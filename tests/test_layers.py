"""The architecture as tables: who may import whom, who may read a clock, how long is too long,
how short is too short.

Imports are read from the syntax tree, also those inside functions and under `TYPE_CHECKING`. A
module that no row covers is an offence: whoever adds a folder says where it belongs.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The engine's layers, the innermost first. A part may import whatever lies below it, and nothing
#: above it: wiring → console → runtime, publishing, audit, effects, adapters → ports, authoring,
#: contracts → core. A name covers all below it, but `saga` only the public front.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("saga.errors",),
    ("saga.core", "saga.users_code", "saga.tasks"),
    ("saga.contracts", "saga.ports", "saga.authoring", "saga.settings", "saga.retrying"),
    (
        *("saga.adapters", "saga.effects", "saga.audit", "saga.publishing", "saga.runtime"),
        *("saga.application", "saga.assembly", "saga.lifecycle", "saga.service", "saga.starting"),
    ),
    ("saga.console",),
    ("saga.wiring", "saga.app", "saga.faststream", "saga.testing", "saga", "saga.__main__"),
)

#: What parts import of their own layer; never both ways.
BESIDE: dict[str, tuple[str, ...]] = {
    "saga.authoring": ("saga.contracts",),
    "saga.settings": ("saga.contracts",),
    "saga.retrying": ("saga.ports",),
    "saga.adapters": ("saga.effects",),
    "saga.publishing": ("saga.adapters",),
    "saga.runtime": ("saga.publishing", "saga.audit"),
    "saga.service": ("saga.lifecycle", "saga.runtime", "saga.publishing"),
    "saga.application": ("saga.effects", "saga.runtime", "saga.service"),
    "saga.assembly": (
        *("saga.adapters", "saga.application", "saga.effects", "saga.publishing", "saga.runtime"),
    ),
    "saga.app": ("saga.wiring",),
    "saga.testing": ("saga.app",),
    "saga": ("saga.app",),
}

#: What those around the engine import of ours.
AROUND: dict[str, tuple[str, ...]] = {
    "topics": ("saga", "saga.contracts"),
    "domain": ("saga", "saga.contracts", "saga.errors", "saga.authoring", "saga.effects", "topics"),
    "domain.books": ("saga", "saga.contracts", "saga.core", "saga.effects", "domain", "topics"),
    "domain.demo": (*(part for layer in LAYERS for part in layer), "domain"),
    "domain.__main__": ("domain",),
    "benchmarks": tuple(part for layer in LAYERS for part in layer),
    "examples": ("saga", "saga.testing"),
    "infra": (),
}

#: What parts may import of ours, beside themselves.
MAY_IMPORT: dict[str, tuple[str, ...]] = AROUND | {
    part: (*(below for layer in LAYERS[:number] for below in layer), *BESIDE.get(part, ()))
    for number, parts in enumerate(LAYERS)
    for part in parts
}
PURE = {"saga.core", "saga.errors"}

#: These cannot tell which way of writing sagas they run: of authoring they know the registry.
KNOW_NO_FRONT_END = {"saga.runtime", "saga.publishing", "saga.effects", "saga.adapters"}

#: What some parts may import of others' libraries, and pure ones not even of the standard library.
LIBRARIES = {"saga.core": (), "saga.errors": (), "topics": ("pydantic",)}
IMPURE = {"asyncio", "logging", "os", "random", "secrets", "socket", "sqlite3", "subprocess"}
IMPURE |= {"threading", "time"}

#: Time and chance come in as arguments. Who may look for them, and by which modules and names.
CLOCK_READERS = (
    *("saga.adapters", "saga.console", "saga.testing"),
    "saga.authoring.refusals",  # stands in the place of time.sleep, and reads no clock
)
CLOCK_MODULES = {"random", "secrets", "time"}
CLOCKS = re.compile(r"(.+\.)?(datetime\.(now|utcnow|today)|date\.today|uuid[147]|urandom)")

#: Whatever a test waits for may take ten times as long on a busy machine.
LIMITS = {"timeout", "timeout_s"}
LIMIT_S_MIN = 60.0
#: What finds nothing in its time and is called again.
POLLS = re.compile(r".*\.(fetch|getmany)")

MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70


def test_imports_point_inward() -> None:
    _report(refused_imports, "saga", "benchmarks", "domain", "topics", "examples", "infra")


def test_time_and_chance_come_in_as_arguments() -> None:
    _report(clock_reads, "saga")


def test_modules_and_functions_are_short() -> None:
    _report(oversizes, "saga", "benchmarks", "domain", "infra")


def test_no_test_depends_on_how_fast_the_machine_is() -> None:
    _report(impatience, "tests")


def test_parts_of_one_layer_import_each_other_one_way() -> None:
    layer_of = {part: number for number, parts in enumerate(LAYERS) for part in parts}

    assert circles(BESIDE) == []
    assert {layer_of[one] - layer_of[other] for one in BESIDE for other in BESIDE[one]} == {0}


def test_no_modules_import_each_other() -> None:
    sources = {
        _module(path): path.read_text("utf-8")
        for folder in ("saga", "domain", "topics", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }

    assert circles({module: _imported(module, sources) for module in sources}) == []


def circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Returns the groups of modules of which each leads to each other one."""
    graph = TopologicalSorter(imports)
    try:
        graph.prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"a": ["b"], "b": ["c"]}, 0),
        ({"a": ["b"], "b": ["a"]}, 1),
        ({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}, 1),
    ],
)
def test_a_circle_is_seen(imports: dict[str, list[str]], found: int) -> None:
    assert len(circles(imports)) == found


def refused_imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yields line and reason of each import in *module* that the tables do not allow."""
    part = _part(module, MAY_IMPORT)
    if part is None:
        yield 1, f"no row of MAY_IMPORT covers {module}"
        return
    allowed = {part, *MAY_IMPORT[part]}
    if part in KNOW_NO_FRONT_END:
        allowed = allowed - {"saga.authoring"} | {"saga.authoring.registry"}
    for line, name in _imports(source):
        top = name.partition(".")[0]
        if top in {"saga", "benchmarks", "domain", "topics", "examples", "infra", "tests"}:
            is_allowed = _part(name, allowed) or ("saga" in allowed and not _part(name, MAY_IMPORT))
        elif top in sys.stdlib_module_names:
            is_allowed = part not in PURE or top not in IMPURE
        else:
            is_allowed = part not in LIBRARIES or top in LIBRARIES[part]
        if not is_allowed:
            ours = ", ".join(sorted(allowed))
            yield line, f"{part} may not import {name}; of ours it may import {ours}"


def clock_reads(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yields line and name of each clock or random source that *module* has no right to."""
    if _part(module, CLOCK_READERS):
        return
    for line, name in _imports(source):
        if name.partition(".")[0] in CLOCK_MODULES:
            yield line, f"{name} is for {', '.join(CLOCK_READERS)}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute) and CLOCKS.fullmatch(ast.unparse(node)):
            yield node.lineno, f"{ast.unparse(node)} is for {', '.join(CLOCK_READERS)}"


def oversizes(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yields line and length of what is too long: *module* itself, and functions in it."""
    lines = len(source.splitlines())
    if lines > MODULE_LINES_MAX:
        yield 1, f"{module} has {lines} lines, {MODULE_LINES_MAX} at most"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines, {FUNCTION_LINES_MAX} at most"


def impatience(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yields line and limit of each wait in *module* that a busy machine exceeds."""
    tree = ast.parse(source)
    exempt = {each for node in ast.walk(tree) if _may_be_short(node) for each in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in exempt:
            for limit in _limits(node):
                yield node.lineno, f"{limit} s pass on a busy machine: use tests.patience.HANG_S"


def _may_be_short(node: ast.AST) -> bool:
    """Whether waits in there are to end in an error, or in a time of its own, that of sagas."""
    match node:
        case ast.With() | ast.AsyncWith():
            return any("raises(" in ast.unparse(item.context_expr) for item in node.items)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return "ctx" in {each.arg for each in node.args.args}
    return False


def _limits(call: ast.Call) -> Iterator[float]:
    name = ast.unparse(call.func)
    if POLLS.fullmatch(name):
        return
    limits = [each.value for each in call.keywords if each.arg in LIMITS]
    limits += call.args if name in {"asyncio.timeout", "asyncio.wait_for"} else []
    for limit in limits:
        seconds = limit.value if isinstance(limit, ast.Constant) else None
        if isinstance(seconds, int | float) and 0 < seconds < LIMIT_S_MIN:
            yield seconds


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("async with asyncio.timeout(5): ...", 1),
        ("async def f(): await asyncio.wait_for(event.wait(), 1)", 1),
        ("process.communicate(timeout=20)", 1),
        ("process.communicate(timeout=HANG_S)", 0),
        ("process.communicate(timeout=60)", 0),
        ("with pytest.raises(TimeoutError):\n    process.wait(timeout=0.1)", 0),
        ("consumer.fetch(timeout_s=0.1)", 0),
        ("async def order(ctx): await ctx.wait('approval', timeout=1)", 0),
    ],
)
def test_a_limit_that_is_too_short_is_seen(source: str, found: int) -> None:
    assert len(list(impatience("tests.test_any", source))) == found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("saga.core.turn", "import pydantic"),
        ("saga.core.turn", "import time"),
        ("saga.core.turn", "from saga.settings import Settings"),
        ("saga.core.turn", "def late():\n    from saga.ports import bus"),
        ("saga.errors", "import orjson"),
        ("saga.ports.bus", "from . import clock"),
        ("saga.adapters.kafka", "from saga.runtime.turn import take_turns"),
        ("saga.runtime.turn", "from saga.authoring import functions"),
        ("saga.runtime.turn", "from saga import Event"),
        ("saga.console.cli", "import domain"),
        ("saga.console.cli", "import benchmarks"),
        ("saga.console.cli", "from saga.wiring import build_service"),
        ("saga.console.cli", "from saga import SagaApp"),
        ("saga.console.cli", "from saga.testing import world"),
        ("saga.effects.service", "from saga.runtime import relay"),
        ("saga.contracts.codec", "from saga.ports import bus"),
        ("saga.newcomer", "from saga.core import turn"),
        ("topics.orders.v1", "from saga.core.identity import SagaId"),
        ("topics.orders.v1", "import orjson"),
        ("domain.order", "from saga.runtime import turn"),
        ("infra.kafka", "from saga.core import identity"),
    ],
)
def test_wrong_import_is_refused(module: str, source: str) -> None:
    """An offence is seen wherever it stands and however it is written."""
    assert list(refused_imports(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("saga.core.turn", "from datetime import timedelta\nfrom saga.errors import SagaError"),
        ("saga.runtime.turn", "from saga.authoring.registry import Registry\nimport asyncio"),
        ("saga.adapters.kafka", "from saga.ports import bus\nimport saga.settings, aiokafka"),
        ("saga.console.cli", "import saga.assembly\nimport typer\nfrom saga.audit import replay"),
        ("saga.wiring", "from saga.console import api"),
        ("saga.testing.world", "from saga.app import SagaApp\nfrom saga.console import cli"),
        ("topics.orders.v1", "from saga import Event\nfrom topics import parcels\nimport pydantic"),
    ],
)
def test_right_import_is_allowed(module: str, source: str) -> None:
    assert list(refused_imports(module, source)) == []


@pytest.mark.parametrize(
    "source", ["import time as t", "from random import choice", "dt.datetime.now()", "uuid.uuid4()"]
)
def test_clock_is_seen(source: str) -> None:
    assert list(clock_reads("saga.runtime.turn", source))
    assert list(clock_reads("saga.adapters.clocks", source)) == []


def _imports(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "tests" if node.level else node.module  # relative: refused like the tests
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _imported(module: str, sources: Mapping[str, str]) -> set[str]:
    found = set()
    for _, name in _imports(sources[module]):
        found.add(name if name in sources else name.rpartition(".")[0])
    return found & sources.keys() - {module}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _part(name: str, parts: Iterable[str]) -> str | None:
    covers = [p for p in parts if name == p or (p != "saga" and name.startswith(f"{p}."))]
    return max(covers, key=len, default=None)


def _report(rule, *folders: str) -> None:
    offences = []
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        place = path.relative_to(ROOT)
        found = rule(_module(path), path.read_text("utf-8"))
        offences += [f"{place}:{line}: {reason}" for line, reason in sorted(found)]
    if offences:
        pytest.fail("\n".join(["", *offences]), pytrace=False)
