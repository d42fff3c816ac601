"""`migrate`: which sagas go on with another version, which are refused, and why."""

import json
import shutil

import pytest

from saga.core.identity import saga_id, share_of
from tests.console.conftest import call, enter, kept

CONTRACTS = """
from saga import Context, Effects, Event, Intent, SagaApp, saga


class Placed(Event, topic="moving.placed", version=1, key="name"):
    name: str


class Held(Event, topic="moving.held", version=1):
    shelf: str


class Reserve(Intent[Held], topic="moving.reserve", version=1):
    name: str


class Release(Intent[None], topic="moving.release", version=1):
    name: str


class Ship(Intent[None], topic="moving.ship", version=1):
    name: str


effects = Effects("moving")


@effects.on(Reserve)
async def reserve(intent: Reserve, ctx) -> Held:
    return Held(shelf="s-1")


@effects.on(Release)
async def release(intent: Release, ctx) -> None: ...


@effects.on(Ship)
async def ship(intent: Ship, ctx) -> None: ...
"""
V1 = """

@saga("order", version=1, starts_on=Placed)
async def order_1(ctx: Context, placed: Placed) -> None:
    if placed.name.startswith("odd"):
        await ctx.do(Ship(name=placed.name), id="early")
    await ctx.do(Reserve(name=placed.name), undo=Release)
    await ctx.wait("go")
"""
V2 = """

@saga("order", version=2, starts_on=Placed)
async def order_2(ctx: Context, placed: Placed) -> None:
    await ctx.do(Reserve(name=placed.name), undo=Release, id="hold")
    await ctx.wait("go")
    await ctx.do(Ship(name=placed.name))
"""
BOTH = ("--from", "order@1", "--to", "order@2")
WHY = ("--reason", "ships at last")


def write(folder, *versions):
    names = ", ".join(f"order_{version}" for version in versions)
    code = "".join({1: V1, 2: V2}[version] for version in versions)
    app = f"\n\napp = SagaApp(sagas=[{names}], effects=[effects])\n"
    (folder / "toys.py").write_text(CONTRACTS + code + app)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder in which five sagas of version 1 have begun, one of them odd."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as monkeypatch, kept():
        enter(folder, monkeypatch)
        write(folder, 1)
        lines = "".join(json.dumps({"name": name}) + "\n" for name in ("a", "b", "c", "d", "odd"))
        assert call("publish", "moving.evt.placed.v1", "-", stdin=lines).code == 0
        assert call("run", "--until-idle").code == 0
    return folder


@pytest.fixture
def open_sagas(begun, tmp_path, monkeypatch):
    """Those sagas, in a folder whose application has version 2 alone."""
    shutil.copytree(begun / ".saga", tmp_path / ".saga")
    enter(tmp_path, monkeypatch)
    write(tmp_path, 2)
    (tmp_path / "map.yaml").write_text("steps:\n  reserve: hold\n")
    return tmp_path


def test_dry_run_says_which_sagas_would_decide_otherwise_and_changes_nothing(open_sagas):
    called = call("migrate", *BOTH, "--map", "map.yaml", "--dry-run", "--json")
    *rows, summary = called.rows

    assert called.code == 1
    [odd] = [row for row in rows if not row["ok"]]
    assert (odd["key"], odd["kind"], odd["entries"]) == ("odd", "other step", 6)
    assert "early/do/1" in odd["difference"]["recorded"]
    assert "reserve/do/1" in odd["difference"]["decided"]
    assert odd["where"].startswith("toys.py:")
    assert {row["result"] for row in rows if row["ok"]} == {"possible"}
    assert (summary["sagas"], summary["possible"], summary["refused"]) == (5, 4, 1)
    assert summary["kinds"] == [
        {
            "definition": "order",
            "version": 1,
            "kind": "other step",
            "sagas": 1,
            "example": odd["id"],
        }
    ]
    assert {row["version"] for row in call("ls", "--json").rows} == {1}


def test_sagas_go_on_with_the_new_version_and_those_that_cannot_stay(open_sagas):
    called = call("migrate", *BOTH, "--map", "map.yaml", *WHY, "--no-wait", "--json")
    assert called.code == 1, called
    assert called.rows[-1]["unknown"] == 4
    assert call("run", "--until-idle").code == 0

    versions = {row["key"]: row["version"] for row in call("ls", "--json").rows}
    assert versions == {"a": 2, "b": 2, "c": 2, "d": 2, "odd": 1}
    [entry] = [
        row for row in call("history", "order/a", "--json").rows if row["type"] == "migrated"
    ]
    assert entry["data"]["steps"] == {"reserve": "hold"}
    assert entry["data"]["reason"] == "ships at last"
    assert call("signal", "order/a", "go", "--no-wait").code == 0
    assert call("run", "--until-idle").code == 0
    shown = call("show", "order/a", "--json").row
    assert [row["step"] for row in shown["steps"]] == ["reserve", "ship"]
    assert shown["status"] == "completed"
    assert call("replay", "order/a").code == 0


def test_share_of_the_sagas_grows_and_never_changes(open_sagas):
    shares = {name: share_of(saga_id("order", name)) for name in "abcd"}
    middle = sorted(shares.values())[1] + 0.001
    words = (*BOTH, "--map", "map.yaml", "--dry-run", "--json")

    few = {row["key"] for row in call("migrate", *words, "--percent", middle).rows[:-1]}
    assert few - {"odd"} == {name for name, share in shares.items() if share < middle}
    more = {row["key"] for row in call("migrate", *words, "--percent", 90).rows[:-1]}
    assert few <= more
    assert call("migrate", *words, "--percent", 0).rows == [
        {**dict.fromkeys(("sagas", "possible", "applied", "duplicate"), 0)}
        | {"refused": 0, "unknown": 0, "kinds": []}
    ]
    looked_at = {row["key"] for row in call("replay", "--percent", middle, "--json").rows[:-1]}
    assert looked_at == few


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps:\n  reserve: hold\n  resreve: hold2\n", "map.yaml:3: no open saga of order@1"),
        ("steps:\n  a: x\n  b: x\n", "map.yaml:3: `b` and `a` would both be `x`"),
        ("steps:\n  a: 1\n", "map.yaml:2: the new name of `a` is no text"),
        ("steps:\n  a: b/c\n", "map.yaml:2: `b/c`"),
        ("step:\n  a: b\n", "map.yaml:1: `step` is not known here: expected `steps`"),
        ("steps: []\n", "map.yaml:1: `steps` has to be"),
        ("steps:\n  a: b\n  a: c\n", "map.yaml:3: key `a` is here a second time"),
        ("", "map.yaml:1: "),
    ],
)
def test_mistake_in_the_map_is_named_with_its_line(open_sagas, text, problem):
    (open_sagas / "map.yaml").write_text(text)
    call("migrate", *BOTH, "--map", "map.yaml", "--dry-run").fails(1, problem)


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["--from", "order", "--to", "order@2"], 2, "such as order@2"),
        (["--from", "order@1", "--to", "tour@2"], 2, "both have to be of one definition"),
        (["--from", "order@2", "--to", "order@2"], 2, "two are needed"),
        (["--from", "order@1", "--to", "order@7"], 1, "it has order@2"),
        (["--from", "order@1", "--to", "order@2", "--percent", "101"], 2, "--percent"),
        (["--from", "order@1", "--to", "order@2", "--map", "none.yaml"], 1, "none.yaml"),
    ],
)
def test_what_cannot_be_meant_is_refused(open_sagas, words, code, problem):
    call("migrate", *words, "--dry-run").fails(code, problem)


def test_an_act_needs_a_reason_and_a_dry_run_does_not(open_sagas):
    call("migrate", *BOTH).fails(2, "--reason")
    assert call("migrate", *BOTH, "--map", "map.yaml", "--dry-run").code == 1


def test_what_people_read_names_the_first_entry_that_differs(open_sagas):
    called = call("migrate", *BOTH, "--dry-run")

    assert "refused: other step at entry 2, intent-issued of" in called.out
    assert "the history says      intent-issued reserve/do/1" in called.out
    assert "the code at hand says intent-issued hold/do/1" in called.out
    assert "order@1  other step      5  order/a" in called.out
    assert "order@1 → order@2: 5 refused" in called.out


def test_new_code_that_raises_is_a_kind_of_difference_and_its_line_is_named(open_sagas):
    code = (open_sagas / "toys.py").read_text()
    raises = '    await ctx.wait("go")\n    await ctx.do(Ship'
    changed = code.replace(raises, '    raise ValueError("no")\n    await ctx.do(Ship')
    assert changed != code
    (open_sagas / "toys.py").write_text(changed)
    line = changed[: changed.index("raise ValueError")].count("\n") + 1
    dry = call("migrate", *BOTH, "--map", "map.yaml", "--dry-run", "--json")

    first = dry.rows[0]
    assert (first["result"], first["kind"]) == ("refused", "code raised")
    assert (first["type"], first["where"]) == ("reply-received", f"toys.py:{line}")
    assert "ValueError: no" in first["difference"]["decided"]
    assert [each["sagas"] for each in dry.rows[-1]["kinds"]] == [4, 1]


def test_versions_say_which_open_sagas_need_and_which_can_go(open_sagas):
    called = call("versions", "--json")
    assert called.code == 1, called
    first, second = called.rows
    assert (first["version"], first["open"], first["here"]) == (1, 5, False)
    assert "saga migrate --from order@1 --to order@2" in first["advice"]
    assert (second["version"], second["open"], second["newest"]) == (2, 0, True)

    write(open_sagas, 1, 2)
    assert call("versions", "--definition", "order").code == 0
    assert call("versions", "--definition", "tour").fails(0, "neither the application").out == ""


def test_doctor_says_that_open_sagas_need_a_version_that_is_not_there(open_sagas):
    found = [row for row in call("doctor", "--json").rows if row.get("check") == "versions"]
    [row] = found
    assert row["what"] == "5 open sagas still need order@1, which this application does not have"
    assert row["severity"] == "error"
