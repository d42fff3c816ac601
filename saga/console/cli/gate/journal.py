"""How far a run is, in a file: one that was interrupted goes on behind that.

A line is added for each part that is done, in the order in which they were begun. The first line
says what is replayed, and by which code: other code has to see every history.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from saga.application import Application
from saga.console.cli.gate.choosing import Chunk
from saga.console.cli.gate.tally import Tally
from saga.console.cli.output import NotSo
from saga.contracts.lockfile import lock_of, lock_text
from saga.core.identity import Instant, SagaId
from saga.core.values import value

FORMAT: Final = "saga replay 2"
_EARLIER: Final = ("saga replay 1",)
Place = tuple[int, SagaId | None]
BEGIN: Final[Place] = (0, None)


@value
class Heading:
    """What makes two runs the same: which store, what was chosen of it, and the code."""

    store: str
    chosen: dict[str, Any]
    code: str


@value
class Kept:
    """What a file says of an earlier run: where it goes on, and what was found by then."""

    place: Place
    since: Instant | None
    tally: Tally


class Journal:
    """Where chunks are noted as they are done; without a *path* nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._open: deque[Chunk] = deque()
        """Those that were begun, and those done behind one that is not."""
        self._noted = Tally()
        """What the file has, so that it has no more examples than are of use."""

    def read(self, heading: Heading) -> Kept | str | None:
        """What an earlier run has left; why it is of no use; None where there is none.

        Raises:
            NotSo: the file cannot be read, or is something else.
        """
        if self._path is None:
            return None
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error
        if lines == [b""]:
            return None
        try:
            return _kept(lines, heading)
        except (KeyError, TypeError, ValueError) as error:
            text = "it is not what an interrupted run has left: remove it, or name another file"
            raise self._refused(text) from error

    def begin(self, heading: Heading, *, since: Instant | None, tally: Tally) -> None:
        """Begin the file anew, with what is known."""
        if self._path is None:
            return
        first = {
            "format": FORMAT,
            "store": heading.store,
            "chosen": heading.chosen,
            "code": heading.code,
            "since": since,
            "names_each": tally.names_each,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error
        self._noted.names_each = tally.names_each
        self._write(first)

    def go_on(self, kept: Kept) -> None:
        """Add to what is there."""
        self._noted.names_each = kept.tally.names_each
        self._noted.merge(kept.tally)
        if self._path is not None:
            try:
                self._file = self._path.open("r+b")
            except OSError as error:
                raise self._refused(error.strerror or str(error)) from error
            whole = self._file.read().rfind(b"\n") + 1  # the last line may have been cut
            self._file.seek(whole)
            self._file.truncate()

    def add(self, chunk: Chunk) -> None:
        self._open.append(chunk)

    def note(self) -> None:
        """Write down the chunks that are done, up to the first that is not."""
        while self._open and self._open[0].is_complete:
            chunk = self._open.popleft()
            if self._file is None:
                continue
            own = Tally(names_each=self._noted.names_each)
            for verdict in chunk.verdicts:
                own.add(verdict)
            own.kept = [verdict for verdict in own.kept if self._noted.add(verdict)]
            self._write({"place": chunk.place, **own.plain()})

    def end(self) -> None:
        """The run is through: nobody goes on with it."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, plain: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(orjson.dumps(plain) + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error

    def _refused(self, why: str) -> NotSo:
        return NotSo(f"--resume {self._path}: {why}")


def code_of(app: Application) -> str:
    """A digest of all that decides: saga, definitions, contracts, and the modules of both."""
    digest = sha256(version("saga").encode())
    models = {contract.model for contract in app.contracts.contracts}
    roots = {_root(model) for model in models}
    for (name, number), registered in sorted(app.registry.all().items()):
        digest.update(f"{name}@{number} {registered.saga.fingerprint}\n".encode())
        roots |= {_root(function) for function in registered.saga.code}
    digest.update(lock_text(lock_of(app.contracts)).encode())
    for file in sorted(_files_of(roots - {"saga"})):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _files_of(roots: set[str]) -> Iterator[str]:
    """The source files that are imported of these packages and modules."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in roots and file and Path(file).is_file():
            yield file


def _root(named: object) -> str:
    return str(getattr(named, "__module__", "")).partition(".")[0]


def _kept(lines: Sequence[bytes], heading: Heading) -> Kept | str:
    first, *others = map(orjson.loads, lines[:-1])  # behind the last line end it was cut
    if first["format"] in _EARLIER:
        return "an earlier release of saga has written it"
    if first["format"] != FORMAT:
        raise ValueError(first["format"])
    if first["code"] != heading.code:
        return "definitions, contracts or other code have changed since"
    if (first["store"], first["chosen"]) != (heading.store, heading.chosen):
        return "it was of another store, or of other sagas"
    tally = Tally(names_each=first["names_each"])
    place = BEGIN
    for plain in others:
        number, after = plain["place"]
        place = (number, after)
        tally.merge(Tally.of_plain(plain, names_each=tally.names_each))
    return Kept(place, first["since"], tally)
