"""The deploy gate as a run: processes, time, interruptions, reports. `test_replay.py` has what a
difference is.
"""

import json
import shutil
import signal
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest

from saga.audit.differences import Kind
from saga.console.cli.gate import choosing, progress, run
from saga.console.cli.gate.journal import Heading, Journal
from saga.console.cli.gate.tally import EXAMPLES_MAX, Tally
from saga.console.cli.gate.verdicts import Verdict
from saga.core.identity import Instant, SagaId
from saga.core.status import SagaStatus
from saga.ports import SagaSummary
from tests.console.conftest import call, enter, start
from tests.console.toys import TOYS
from tests.patience import wait_until

SHIPS = "    await ctx.do(Ship(order_id=placed.order_id))\n"
SAGAS = 4


def replay(*words):
    """In this process."""
    return call("replay", "--jobs", "0", *words)


def change(folder, *, before=SHIPS, code):
    """Have the saga `order` run *code* before it ships, or before another line."""
    assert before in TOYS
    (folder / "toys.py").write_text(TOYS.replace(before, f"{code}{before}"))


def only_far(code):
    return f'    if placed.order_id == "far-1":\n        {code}\n'


@pytest.fixture
def copied(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The served application in a folder of its own, whose store may be written."""
    shutil.copytree(served / ".saga", tmp_path / ".saga")
    return enter(tmp_path, monkeypatch)


def verdict(number):
    """On a saga that differs."""
    return Verdict(
        saga_id=str(number),
        definition="order",
        definition_version=1,
        key=str(number),
        entries=3,
        kind=Kind.OTHER_PAYLOAD,
        version=2,
    )


def write_to_store(sql, *values):
    with sqlite3.connect(".saga/saga.db") as connection:
        assert connection.execute(sql, values).rowcount == 1
    connection.close()


class TestProcesses:
    @pytest.mark.slow
    def test_several_find_what_this_process_alone_finds(self, looking, monkeypatch):
        (looking / "toys.py").write_text(TOYS.replace("amount=placed.amount)", "amount=7)"))
        one = replay("--json")

        several = call("replay", "--json", "--jobs", "2")

        assert several.code == one.code == 1
        assert sorted(several.out.splitlines()[:-1]) == sorted(one.out.splitlines()[:-1])
        assert several.rows[-1]["kinds"] == one.rows[-1]["kinds"]

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("dies", "told"),
        [
            ("__import__('os')._exit(3)", "ended with exit code 3"),
            ("__import__('os').kill(__import__('os').getpid(), 9)", "was killed by signal 9"),
            ("__import__('ctypes').string_at(0)", "was killed by signal 11"),
            ("raise MemoryError", "ran out of memory"),
        ],
        ids=["exit", "killed", "segfault", "memory"],
    )
    def test_a_history_that_kills_its_process_is_found_and_the_others_replayed(
        self, looking, dies, told
    ):
        """What the process held is named, and tried again one by one."""
        change(looking, code=only_far(dies))

        called = call("replay", "--json", "--jobs", "1")

        bad = [row for row in called.rows[:-1] if not row["ok"]]
        assert (called.code, called.rows[-1]["sagas"]) == (1, SAGAS)
        assert [(row["key"], row["kind"]) for row in bad] == [("far-1", "process died")]
        assert told in bad[0]["difference"]["decided"]
        assert "tried again one by one" in called.err
        assert "order/far-1" in called.err

    @pytest.mark.long
    def test_a_history_that_does_not_end_is_ended_and_its_line_told(self, looking):
        change(looking, code=only_far("while True: pass"))

        called = call("replay", "--json", "--jobs", "1", "--timeout-s", "6")

        [bad] = [row for row in called.rows[:-1] if not row["ok"]]
        [line] = [
            number
            for number, text in enumerate((looking / "toys.py").read_text().splitlines(), 1)
            if "while True" in text
        ]
        assert (called.code, called.rows[-1]["sagas"]) == (1, SAGAS)
        assert (bad["key"], bad["kind"]) == ("far-1", "took too long")
        assert bad["where"] == f"toys.py:{line}"
        assert "6 seconds" in bad["difference"]["decided"]

    @pytest.mark.long
    def test_a_ctrl_c_that_code_raises_is_a_finding(self, looking):
        """From outside none comes to a process that replays."""
        change(looking, code=only_far("raise KeyboardInterrupt"))

        called = call("replay", "--json", "--jobs", "1")

        [bad] = [row for row in called.rows[:-1] if not row["ok"]]
        assert (called.code, bad["key"], bad["kind"]) == (1, "far-1", "code raised")
        assert bad["where"].startswith("toys.py:")
        assert "tried again" not in called.err

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("begins", "told"),
        [
            ("__import__('os')._exit(9)", "ended with exit code 9, before it began"),
            ("raise ImportError('not twice')", "not twice"),
        ],
        ids=["exit", "error"],
    )
    def test_an_application_that_only_this_process_can_load_ends_the_run(
        self, looking, begins, told
    ):
        is_child = "__import__('multiprocessing').parent_process() is not None"
        (looking / "toys.py").write_text(f"if {is_child}:\n    {begins}\n{TOYS}")

        assert call("replay", "--jobs", "1").fails(1, told).out == ""

    @pytest.mark.long
    def test_what_code_prints_is_no_result(self, looking):
        change(looking, code="    print('hello')\n")

        called = call("replay", "--json", "--jobs", "1")

        assert (called.code, len(called.rows)) == (0, SAGAS + 1)

    @pytest.mark.long
    def test_sigterm_ends_all_of_them_and_what_is_known_is_reported(self, copied):
        """The process is in code that does not end; a report says that there is more."""
        change(
            copied,
            code=only_far(
                "open('pid', 'w').write(str(__import__('os').getpid()))\n"
                "        while not __import__('os').path.exists('go'): pass"
            ),
        )
        running = start(copied, "replay", "--jobs", "1", "--junit", "gate.xml")
        wait_until(lambda: Path("pid").exists() and Path("pid").read_text())
        worker = psutil.Process(int(Path("pid").read_text()))

        running.send_signal(signal.SIGTERM)
        _, err = running.communicate()

        assert running.returncode == 128 + signal.SIGTERM
        assert f"of {SAGAS} sagas were replayed: it was interrupted" in err
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        assert [each.get("type") for each in ET.parse("gate.xml").iter("error")] == ["unfinished"]


class TestChoosing:
    def test_sagas_since_a_moment_are_chosen(self, looking):
        assert replay("--since", "1d", "--json").rows[-1]["sagas"] == SAGAS
        assert replay("--since", "2100-01-01T00:00:00Z", "--json").rows[-1]["sagas"] == 0
        assert replay("--since", "yesterday").code == 2
        assert replay("order/o-1", "--since", "1d").code == 2

    def test_a_sample_is_always_the_same_and_a_part_of_a_larger_one(self, looking):
        def sampled(percent):
            return {row["id"] for row in replay("--percent", percent, "--json").rows[:-1]}

        assert sampled(50) == sampled(50)
        assert sampled(10) <= sampled(50) <= sampled(100)
        assert len(sampled(100)) == SAGAS
        assert replay("--percent", "0").code == 2
        assert replay("order/o-1", "--percent", "50").code == 2

    def test_pages_and_chunks_of_any_size_have_each_saga_once(self, looking, monkeypatch):
        monkeypatch.setattr(choosing, "PAGE_SAGAS", 3)
        monkeypatch.setattr(choosing, "CHUNK_SAGAS", 2)

        ids = [row["id"] for row in replay("--json").rows[:-1]]

        assert len(ids) == len(set(ids)) == SAGAS

    async def test_long_histories_are_loaded_a_few_at_a_time(self):
        """A chunk is as much as a process has in memory."""

        def summary(number, entries):
            at = Instant(0)
            row = ("order", 1, str(number), SagaStatus.RUNNING, at, at, None, None, entries)
            return SagaSummary(SagaId(str(number)), *row)

        lengths = [1, 30_000, 9_000, 9_000, 9_000, *60 * [1]]
        sagas = [summary(number, entries) for number, entries in enumerate(lengths)]

        chunks = [chunk.sagas async for chunk in choosing.chunks_of(sagas)]

        assert [len(chunk) for chunk in chunks] == [1, 1, 2, 50, 11]
        assert [saga for chunk in chunks for saga in chunk] == sagas


class TestWhatCannotBeRead:
    def test_a_row_of_the_index_is_a_finding_and_the_others_are_replayed(self, copied):
        write_to_store("UPDATE saga_index SET version = 'x' WHERE key = 'o-1'")

        called = replay("--json")

        *rows, summary = called.rows
        [bad] = [row for row in rows if not row["ok"]]
        assert (called.code, summary["sagas"], summary["different"]) == (1, SAGAS, 1)
        assert (bad["id"], bad["kind"]) == (None, "cannot be read")
        assert "saga_index" in bad["difference"]["recorded"]
        assert replay().code == 1

    def test_a_history_is_a_finding(self, copied):
        write_to_store(
            "UPDATE stored_events SET state = 'no JSON' WHERE rowid = "
            "(SELECT max(rowid) FROM stored_events)"
        )

        called = replay("--json")

        [bad] = [row for row in called.rows[:-1] if not row["ok"]]
        assert (called.code, bad["kind"]) == (1, "cannot be read")
        assert called.rows[-1]["sagas"] == SAGAS


class TestProgress:
    def test_lines_go_to_standard_error_where_it_is_no_terminal(self, looking, monkeypatch):
        monkeypatch.setattr(progress, "EVERY_S", 0.0)

        called = replay("--json")

        assert len(called.rows) == SAGAS + 1
        assert f"{SAGAS} of {SAGAS} sagas replayed" in called.err

    def test_a_short_run_says_nothing_on_the_way(self, looking):
        assert replay().err == ""


class TestResuming:
    @pytest.fixture
    def interrupted(self, looking, tmp_path, monkeypatch):
        """The file of a run that Ctrl-C has ended when two of four sagas were through."""
        monkeypatch.setattr(choosing, "CHUNK_SAGAS", 1)
        take, taken = run.Run.take, []

        def take_some(self, chunk, verdict):
            if len(taken) == 2:
                raise KeyboardInterrupt
            taken.append(verdict)
            take(self, chunk, verdict)

        file = tmp_path / "gate.state"
        with monkeypatch.context() as patched:
            patched.setattr(run.Run, "take", take_some)
            called = replay("--resume", file, "--junit", tmp_path / "gate.xml")
        assert called.code == 130
        assert "2 of 4 sagas were replayed: it was interrupted" in called.err
        return file

    def test_a_run_goes_on_where_it_was_interrupted(self, interrupted):
        called = replay("--resume", interrupted, "--json")

        assert called.code == 0
        assert "goes on behind 2 sagas" in called.err
        assert len(called.rows) == 2 + 1
        assert (called.rows[-1]["sagas"], called.rows[-1]["resumed"]) == (SAGAS, 2)

    def test_the_file_is_gone_when_a_run_is_through(self, interrupted):
        replay("--resume", interrupted)

        assert not interrupted.exists()

    def test_a_report_has_what_was_found_before(self, interrupted, tmp_path):
        replay("--resume", interrupted, "--junit", tmp_path / "gate.xml")

        root = ET.parse(tmp_path / "gate.xml").getroot()
        assert (root.get("tests"), root.get("errors")) == (str(SAGAS), "0")

    def test_other_code_sees_every_history_again_and_says_so(self, interrupted, looking):
        change(looking, code="    x = 1\n")

        called = replay("--resume", interrupted, "--json")

        assert "other code have changed since: every saga is replayed anew" in called.err
        assert called.rows[-1] | {"sagas": SAGAS, "resumed": 0} == called.rows[-1]

    def test_another_choice_begins_anew(self, interrupted):
        called = replay("--resume", interrupted, "--definition", "order", "--json")

        assert "of other sagas: every saga is replayed anew" in called.err
        assert called.rows[-1]["resumed"] == 0

    def test_a_line_that_was_cut_is_left_out(self, interrupted):
        whole = interrupted.read_bytes()
        interrupted.write_bytes(whole[:-10])

        called = replay("--resume", interrupted, "--json")

        assert (called.code, called.rows[-1]["resumed"], called.rows[-1]["sagas"]) == (0, 1, SAGAS)

    def test_the_file_has_examples_and_not_every_difference(self, tmp_path):
        journal = Journal(tmp_path / "state")
        heading = Heading("sqlite:///x", {}, "code")
        journal.begin(heading, since=None, tally=Tally())
        for number in range(100):
            chunk = choosing.Chunk((), (0, SagaId(str(number))), [verdict(number)])
            journal.add(chunk)
        journal.note()
        journal.close()

        kept = Journal(tmp_path / "state").read(heading)

        assert (kept.tally.sagas, kept.tally.different, kept.tally.entries) == (100, 100, 300)
        assert len(kept.tally.kept) == EXAMPLES_MAX
        assert (tmp_path / "state").read_text().count("other payload") < 100 + 2 * EXAMPLES_MAX
        assert kept.place == (0, "99")

    def test_a_file_that_is_something_else_is_left_alone(self, looking, tmp_path):
        for text in ("precious\n", '{"format": "other"}\n', "[]\n"):
            (tmp_path / "notes").write_text(text)

            replay("--resume", tmp_path / "notes").fails(1, "remove it, or name another file")
            assert (tmp_path / "notes").read_text() == text

    def test_sagas_that_are_named_are_not_resumed(self, looking):
        replay("order/o-1", "--resume", "x").fails(2, "--resume")


class TestReports:
    def report(self, *words):
        called = replay("--junit", "gate.xml", *words)
        root = ET.parse("gate.xml").getroot()
        Path("gate.xml").unlink()
        assert root.tag == "testsuites"
        for name, path in (("tests", "testcase"), ("failures", "testcase/failure")):
            counts = [int(suite.get(name)) for suite in root]
            assert counts == [len(suite.findall(path)) for suite in root]
            assert int(root.get(name)) == sum(counts)
        return called, root

    def test_each_saga_is_a_case_in_the_suite_of_its_definition(self, looking):
        called, root = self.report()

        assert called.code == 0
        assert [suite.get("name") for suite in root] == ["leave@1", "order@1"]
        assert [len(suite) for suite in root] == [1, 3]
        assert root.find(".//failure") is None

    def test_a_difference_is_a_failure_with_both_sides_and_the_line(self, looking):
        (looking / "toys.py").write_text(TOYS.replace("amount=placed.amount)", "amount=7)"))

        called, root = self.report()

        assert called.code == 1
        failures = root.findall("testsuite[@name='order@1']/testcase/failure")
        assert [each.get("type") for each in failures] == ["other payload"] * 3
        assert all("payload.amount: " in each.text for each in failures)
        assert {case.get("file") for case in root.iter("testcase") if len(case)} == {"toys.py"}

    def test_of_many_sagas_each_kind_is_a_case(self, looking, monkeypatch):
        monkeypatch.setattr("saga.console.cli.gate.command.SAGAS_NAMED_MAX", 1)
        (looking / "toys.py").write_text(TOYS.replace("amount=placed.amount)", "amount=7)"))

        _, root = self.report()

        names = [case.get("name") for case in root.iter("testcase")]
        assert names == ["as today's code decides (1 sagas)", "other payload (3 sagas)"]
        assert "order/far-1" in root.find(".//failure").text

    def test_what_xml_cannot_say_is_an_escape_and_what_it_means_is_text(self, looking):
        raised = "raise ValueError('\\x00 \\x1b[31m \\ufffe \\ud800 <b>&amp;]]> \"')"
        change(looking, code=f"    {raised}\n")

        _, root = self.report()

        text = root.find(".//failure").text
        assert '\\u001b[31m \\ufffe \\ud800 <b>&amp;]]> "' in text

    def test_a_report_of_no_sagas_is_one_too(self, looking):
        called, root = self.report("--definition", "nobody")

        assert (called.code, len(root), root.get("tests")) == (0, 0, "0")

    def test_a_report_that_cannot_be_written_is_told_before_anything_is_replayed(self, looking):
        called = replay("--junit", "no/such/folder/gate.xml")

        assert called.fails(1, "--junit no/such/folder/gate.xml").out == ""


class TestSummary:
    def test_kinds_are_counted_with_an_example(self, looking):
        (looking / "toys.py").write_text(TOYS.replace("amount=placed.amount)", "amount=7)"))

        called = replay("--json")
        [kind] = called.rows[-1]["kinds"]

        assert (kind["definition"], kind["version"]) == ("order", 1)
        assert (kind["kind"], kind["sagas"]) == ("other payload", 3)
        assert kind["example"] in {row["id"] for row in called.rows[:-1]}
        assert "other payload" in replay().out.splitlines()[-2]

    def test_a_row_has_the_difference_in_parts(self, looking):
        (looking / "toys.py").write_text(TOYS.replace("amount=placed.amount)", "amount=7)"))

        row = next(row for row in replay("order/far-1", "--json").rows)

        assert row["changes"] == [{"path": "payload.amount", "recorded": "2", "decided": "7"}]
        assert (row["kind"], row["type"], row["version"]) == ("other payload", "intent-issued", 1)
        assert row["where"].startswith("toys.py:")
        assert json.loads(json.dumps(row)) == row
