"""A report as JUnit XML, which most pipelines show: a suite for each definition and version.

Of some thousand sagas each is a test case; of more there is one for all that are as they were, and
one for each kind of difference, with some of its sagas. Snapshots that were compared are one more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from saga.audit.snapshots import Found
from saga.console.cli.gate.tally import Count, Suite, Tally, name_of
from saga.console.cli.gate.verdicts import Verdict
from saga.console.cli.output import NotSo

NAME: Final = "saga replay"
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to say."""


def write(path: Path, tally: Tally, *, unfinished: str | None = None) -> None:
    """Write the report to *path*, whole or not at all; *unfinished* says why there is more.

    Raises:
        NotSo: the file cannot be written.
    """
    tree = ElementTree(_report(tally, unfinished))
    indent(tree)
    beside = path.with_name(f".{path.name}.new")
    try:
        try:
            with beside.open("wb") as file:
                tree.write(file, encoding="utf-8", xml_declaration=True)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NotSo(f"--junit {path}: {error.strerror}") from error


def _report(tally: Tally, unfinished: str | None) -> Element:
    root = Element("testsuites", name=NAME)
    differences = list(tally.differences())
    for suite in tally.suites:
        _add_suite(root, suite, tally, [each for each in differences if each.suite == suite])
    if unfinished is not None:
        made = SubElement(root, "testsuite", name=NAME)
        case = SubElement(made, "testcase", classname=NAME, name="every history is replayed")
        SubElement(case, "error", message=_legal(unfinished), type="unfinished")
        _count(made)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    return root


def _add_suite(root: Element, suite: Suite, tally: Tally, differences: list[Count]) -> None:
    name = _legal(name_of(suite))
    made = SubElement(root, "testsuite", name=name)
    cases = _sagas(tally.of_suite(suite)) if tally.names_each else _kinds(suite, tally, differences)
    for case_name, verdict, text in cases:
        case = SubElement(made, "testcase", classname=name, name=_legal(case_name))
        if verdict is None:
            continue
        if verdict.where is not None:
            file, _, line = verdict.where.rpartition(":")
            case.set("file", _legal(file))
            case.set("line", line)
        failed = SubElement(case, "failure", message=_legal(verdict.line), type=str(verdict.kind))
        failed.text = _legal(text)
    _add_snapshots(made, suite, tally)
    _count(made)


def _add_snapshots(made: Element, suite: Suite, tally: Tally) -> None:
    wrong = tally.snapshots_found(Found.WRONG, suite)
    compared = wrong + tally.snapshots_found(Found.SAME, suite)
    if not compared:
        return
    name = f"snapshots are what their histories give ({compared} snapshots)"
    case = SubElement(made, "testcase", classname=made.get("name", ""), name=name)
    if not wrong:
        return
    text = f"{wrong} of {compared} snapshots are wrong"
    failed = SubElement(case, "failure", message=text, type="wrong snapshot")
    lines = [
        f"{each.name} ({each.saga_id}): {each.snapshot.problem}"
        for each in tally.of_suite(suite)
        if each.snapshot is not None and each.has_wrong_snapshot
    ]
    more = wrong - len(lines)
    lines += [f"and {more} more"] if more else []
    failed.text = _legal("\n".join(lines))


def _sagas(verdicts: list[Verdict]) -> Iterator[tuple[str, Verdict | None, str]]:
    """Of each saga its case, and what is said of a difference."""
    for verdict in verdicts:
        name = f"{verdict.key} ({verdict.saga_id})"
        yield name, None if verdict.is_ok else verdict, "\n".join(verdict.told())


def _kinds(
    suite: Suite, tally: Tally, differences: list[Count]
) -> Iterator[tuple[str, Verdict | None, str]]:
    """Of each kind its case, and what is said of some sagas."""
    if same := tally.counts[suite, None]:
        yield f"as today's code decides ({same} sagas)", None, ""
    for each in differences:
        alike = [found for found in tally.of_suite(suite) if found.kind is each.kind]
        lines = [f"{found.name} ({found.saga_id}): {found.line}" for found in alike]
        more = each.sagas - len(alike)
        lines += [f"and {more} more"] if more else []
        text = "\n".join([*each.example.told(), *lines])
        yield f"{each.kind} ({each.sagas} sagas)", each.example, text


def _count(suite: Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", "0")


def _legal(text: str) -> str:
    """*text* with the characters that XML has not written as escapes."""
    return _ILLEGAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
