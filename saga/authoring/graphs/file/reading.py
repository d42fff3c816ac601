"""From the bytes of a contract file to a tree in which every key and value knows its place.

Theory of operation: PyYAML says what stands in the file, event by event, and this module alone
makes a tree of it. So nothing is constructed, resolved or imported that a file names, and reading
stops at the 33rd level: beyond some hundreds the scanner alone takes minutes. What YAML 1.1 makes
of plain words, such as `no` or `010`, is not asked for; such a word is `Bent`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from saga.authoring.graphs.file.mistakes import START, Mistake, MistakeCode, Place, shown
from saga.core.texts import is_storable
from saga.core.values import value

FILE_BYTES_MAX: Final = 256 * 1024
LEVELS_MAX: Final = 32
VALUES_MAX: Final = 10_000
"""Keys and values of one file: the models look at each of them."""
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_REAL: Final = re.compile(
    r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+]?[0-9]{1,3})?|[eE][-+]?[0-9]{1,3})"
)
_BENT_NUMBERS: Final = re.compile(
    r"[-+]?0[xX][0-9a-fA-F_]+|[-+]?0[bo][0-7_]+|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)|[-+]?[0-9][0-9_]*|[-+]?(?:[0-9][0-9_]*)?\.[0-9_]+"
    r"(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?"
)
_TRUE_WORDS: Final = frozenset({"y", "yes", "on", "true"})
_FALSE_WORDS: Final = frozenset({"n", "no", "off", "false"})
_NULL_WORDS: Final = frozenset({"~", "null"})
_PLAIN: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None, "": None}
_UNFIT: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029"
    "\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
"""What a reader cannot see, or what makes a line look like another one."""


class Bent(str):
    """A plain word that some YAML readers take for something else."""

    __slots__ = ()

    @property
    def taken_for(self) -> str | None:
        """What those readers make of it: `true`, `false` or `null`; None for numbers and dates."""
        word = self.lower()
        if word in _TRUE_WORDS:
            return "true"
        if word in _FALSE_WORDS:
            return "false"
        return "null" if word in _NULL_WORDS else None


@value
class Scalar:
    """A single value; *plain* where it stands without quotes.

    *shift*: how far behind its place its text begins; None where the text is not as it is written.
    """

    place: Place
    text: str
    plain: bool
    shift: int | None = None

    def at(self, offset: int) -> Place:
        """Where the character of the text stands that is *offset* behind its first one."""
        if self.shift is None:
            return self.place
        return Place(self.place.line, self.place.column + self.shift + offset)


@value
class Listed:
    place: Place
    items: tuple[Node, ...]


@value
class Member:
    """A value beneath its key."""

    place: Place
    node: Node


@value
class Mapped:
    place: Place
    members: dict[str, Member]


Node = Scalar | Listed | Mapped


@value
class Tree:
    """What could be read of a file, and what is wrong with it; no root where it is no tree."""

    root: Node | None
    mistakes: tuple[Mistake, ...]


def bytes_of(file: Path) -> bytes:
    """As much of a file as `read` has a use for; OSError where it cannot be read."""
    with file.open("rb") as opened:
        return opened.read(FILE_BYTES_MAX + 1)


def read(data: bytes) -> Tree:
    """The tree of a file, with all mistakes of its form."""
    if len(data) > FILE_BYTES_MAX:
        message = f"the file has more than {FILE_BYTES_MAX:,} bytes"
        return _refused(START, message, MistakeCode.TOO_LARGE)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1)
        return _refused(place, "this is no UTF-8: save the file as that", MistakeCode.NOT_UTF8)
    unfit = tuple(_unfit(text))
    return Tree(None, unfit) if unfit else _Folding().fold(text)


def plain(node: Node) -> Any:
    """What a node says in Python's terms; where YAML readers differ, a `Bent` text."""
    match node:
        case Mapped():
            return {key: plain(member.node) for key, member in node.members.items()}
        case Listed():
            return [plain(item) for item in node.items]
    if not node.plain:
        return node.text
    if node.text in _PLAIN:
        return _PLAIN[node.text]
    if _INTEGER.fullmatch(node.text) and INTEGER_MIN <= int(node.text) <= INTEGER_MAX:
        return int(node.text)
    if _REAL.fullmatch(node.text) and abs(number := float(node.text)) < float("inf"):
        return number
    return Bent(node.text) if _is_bent(node.text) else node.text


def _is_bent(text: str) -> bool:
    return text.lower() in _TRUE_WORDS | _FALSE_WORDS | _NULL_WORDS or bool(
        _BENT_NUMBERS.fullmatch(text)
    )


def _unfit(text: str) -> Iterator[Mistake]:
    for found in _UNFIT.finditer(text):
        start = found.start()
        if start == 0 and found[0] == "\ufeff":
            continue  # a file may begin with a byte order mark
        place = Place(text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start))
        message = f"the character U+{ord(found[0]):04X} is not allowed here: write it as an escape"
        yield Mistake(place, f'{message} in a text, "\\u{ord(found[0]):04x}"', _CONTROL)


_CONTROL: Final = MistakeCode.CONTROL_CHARACTER


def _refused(place: Place, message: str, code: MistakeCode) -> Tree:
    return Tree(None, (Mistake(place, message, code),))


class _Open:
    """A list or mapping that has not ended."""

    __slots__ = ("is_mapping", "items", "key", "members", "place")

    def __init__(self, place: Place, *, is_mapping: bool) -> None:
        self.place = place
        self.is_mapping = is_mapping
        self.items: list[Node] = []
        self.members: dict[str, Member] = {}
        self.key: tuple[str | None, Place] | None = None
        """The key whose value comes next; its text is None where it is refused."""

    def node(self) -> Node:
        if self.is_mapping:
            return Mapped(self.place, self.members)
        return Listed(self.place, tuple(self.items))


class _Folding:
    """Folds the events of one file. A mistake of form leaves the rest readable, where it can."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.open: list[_Open] = []
        self.root: Node | None = None
        self.values = 0
        self.documents = 0

    def fold(self, text: str) -> Tree:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        try:
            for event in events:
                if not self._take(event):
                    return Tree(None, tuple(self.mistakes))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = START if mark is None else Place(mark.line + 1, mark.column + 1)
            self._note(place, f"this is no YAML: {error.problem or error.context}", "yaml")
            return Tree(None, tuple(self.mistakes))
        except yaml.YAMLError as error:
            self._note(START, f"this is no YAML: {shown(error)}", "yaml")
            return Tree(None, tuple(self.mistakes))
        if _is_empty(self.root):
            self._note(START, "the file is empty: expected `name`, `version` and `nodes`", "empty")
            return Tree(None, tuple(self.mistakes))
        return Tree(self.root, tuple(self.mistakes))

    def _take(self, event: yaml.Event) -> bool:
        """Take one event; False where nothing behind it is to be read."""
        place = _place_of(event)
        match event:
            case yaml.DocumentStartEvent():
                return self._begin_document(event, place)
            case yaml.AliasEvent():
                self._note(place, f"`*{event.anchor}` is an alias: write the value here", "alias")
                return self._add(Scalar(place, "", plain=False), is_refused=True)
            case yaml.ScalarEvent():
                self._look_at(event, place)
                if not is_storable(event.value):
                    message = "the text holds a NUL, or half of a surrogate pair"
                    self._note(place, message, "control-character")
                return self._add(_scalar(event, place))
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._look_at(event, place)
                return self._begin(place, is_mapping=isinstance(event, yaml.MappingStartEvent))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                return self._add(self.open.pop().node())
        return True

    def _begin_document(self, event: yaml.DocumentStartEvent, place: Place) -> bool:
        self.documents += 1
        if self.documents > 1:
            message = "a second document begins here: a file holds one contract"
            self._note(place, message, "second-document")
            return False
        if event.version or event.tags:
            self._note(place, "a directive is not allowed: begin with the contract", "tag")
        return True

    def _look_at(self, event: yaml.NodeEvent, place: Place) -> None:
        if event.anchor is not None:
            message = f"`&{shown(event.anchor)}` is an anchor: write the value where it is used"
            self._note(place, message, "alias")
        tag = getattr(event, "tag", None)
        if tag is not None:
            written = tag.replace("tag:yaml.org,2002:", "!!", 1).partition(":")[0]
            self._note(place, f"tag `{shown(written)}` is not allowed: plain values only", "tag")

    def _begin(self, place: Place, *, is_mapping: bool) -> bool:
        if len(self.open) == LEVELS_MAX:
            message = f"more than {LEVELS_MAX} lists and mappings lie within each other"
            self._note(place, message, "too-deep")
            return False
        self.open.append(_Open(place, is_mapping=is_mapping))
        return True

    def _add(self, node: Node, *, is_refused: bool = False) -> bool:
        self.values += 1
        if self.values > VALUES_MAX:
            message = f"the file has more than {VALUES_MAX:,} keys and values"
            self._note(node.place, message, "too-large")
            return False
        if not self.open:
            self.root = node
            return True
        parent = self.open[-1]
        if not parent.is_mapping:
            parent.items.append(node)
        elif parent.key is None:
            parent.key = (None if is_refused else self._key(node, parent), node.place)
        else:
            (key, place), parent.key = parent.key, None
            if key is not None:
                parent.members[key] = Member(place, node)
        return True

    def _key(self, node: Node, parent: _Open) -> str | None:
        """The text of a key; None where it is refused, and its value with it."""
        if not isinstance(node, Scalar):
            self._note(node.place, "a key is a text, not a list or a mapping", "key-not-text")
            return None
        if node.plain and node.text == "<<":
            message = "`<<` merges keys of elsewhere: write them where they are used"
            self._note(node.place, message, "merge-key")
            return None
        if not isinstance(plain(node), str) or (isinstance(plain(node), Bent) and node.text == "~"):
            message = f'key `{shown(node.text)}` is no text: write "{shown(node.text)}"'
            self._note(node.place, message, "key-not-text")
            return None
        first = parent.members.get(node.text)
        if first is not None:
            message = f"key `{shown(node.text)}` is here a second time, first on line"
            self._note(node.place, f"{message} {first.place.line}", "duplicate-key")
            return None
        return node.text

    def _note(self, place: Place, message: str, code: str) -> None:
        self.mistakes.append(Mistake(place, message, MistakeCode(code)))


def _place_of(event: yaml.Event) -> Place:
    assert event.start_mark is not None, event
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _scalar(event: yaml.ScalarEvent, place: Place) -> Scalar:
    end = event.end_mark
    assert end is not None, event
    quotes = 0 if event.style is None else 1
    length = end.column + 1 - place.column
    is_as_written = end.line + 1 == place.line and event.anchor is None and event.tag is None
    is_as_written &= length == len(event.value) + 2 * quotes and event.style not in {"|", ">"}
    shift = quotes if is_as_written else None
    return Scalar(place, event.value, plain=event.style is None, shift=shift)


def _is_empty(root: Node | None) -> bool:
    match root:
        case None:
            return True
        case Mapped():
            return not root.members
        case Scalar():
            return plain(root) is None
    return False
