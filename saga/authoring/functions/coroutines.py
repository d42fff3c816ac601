"""Coroutines that stand still: where they do, and how to let go of one."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterator
from gc import get_referents
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType
from typing import Any

from saga.core.texts import described
from saga.users_code import is_ours

CLOSES_MAX = 10
"""So often a coroutine is closed that awaits again in each `finally`; then the collector has it."""

log = logging.getLogger(__name__)


def close(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Let go of a coroutine. Its `finally` runs, and nothing that it does or raises counts."""
    for _ in range(CLOSES_MAX):
        # The innermost first: one that awaits again would be left where it stands.
        for each, _ in reversed(list(_awaiting(coroutine))):
            try:
                each.close()
            except BaseException as error:  # users' code, in whoever's turn this is
                if is_ours(error):
                    raise
                log.debug("a saga's function raised while it was closed: %s", described(error))
                break
        if getattr(coroutine, "cr_frame", None) is None:
            return


def awaits_at(coroutine: Coroutine[Any, Any, Any]) -> str | None:
    """The line at which a suspended coroutine stands, the innermost one in its own package."""
    where = package = None
    for frame in frames_of(coroutine):
        owner = str(frame.f_globals.get("__name__")).partition(".")[0]
        package = package or owner
        if owner == package:
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return where


def frames_of(coroutine: Coroutine[Any, Any, Any]) -> Iterator[FrameType]:
    """The frames of a coroutine that stands still, the innermost last."""
    return (frame for _, frame in _awaiting(coroutine) if frame is not None)


def line_of(code: CodeType, instruction: int) -> str:
    lines = (line for begin, end, line in code.co_lines() if begin <= instruction < end)
    return f"{code.co_filename}:{next(lines, None) or code.co_firstlineno}"


def _awaiting(
    coroutine: Coroutine[Any, Any, Any],
) -> Iterator[tuple[Coroutine[Any, Any, Any], FrameType | None]]:
    """A coroutine, the one that it awaits, and so on, also through async generators."""
    inner: object = coroutine
    while isinstance(inner, Coroutine):
        if isinstance(inner, CoroutineType):
            yield inner, inner.cr_frame
            inner = inner.cr_await
        else:
            generator = _generator_of(inner)
            yield inner, None if generator is None else generator.ag_frame
            inner = None if generator is None else generator.ag_await


def _generator_of(asked: object) -> AsyncGeneratorType[Any, Any] | None:
    """The async generator that is *asked* for its next value, which tells the collector alone."""
    known = (each for each in get_referents(asked) if isinstance(each, AsyncGeneratorType))
    return next(known, None)
