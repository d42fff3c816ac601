"""Texts of users' code are made fit to be stored, whatever they are."""

import orjson
import pytest

from saga.core.texts import TEXT_CHARS_MAX, described, is_storable, storable


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "nul \x00"])
def test_what_no_store_takes_is_written_as_escapes(text: str) -> None:
    mended = storable(text)

    assert not is_storable(text)
    assert is_storable(mended)
    assert orjson.dumps(mended)
    assert f"\\u{ord(next(c for c in text if not c.isalpha() and c != ' ')):04x}" in mended


def test_a_plain_text_stays_as_it_is() -> None:
    assert storable("émoji 🎉, tab\t and line\n") == "émoji 🎉, tab\t and line\n"


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    mended = storable("x" * 1_000_000)

    assert len(mended) < TEXT_CHARS_MAX + 50
    assert mended.endswith(f"({1_000_000 - TEXT_CHARS_MAX} characters more)")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def test_an_error_whose_text_cannot_be_read_is_named_by_its_type() -> None:
    assert described(Unreadable()) == "Unreadable (its text cannot be read: SystemExit)"
    assert described(ValueError("why \ud800")) == "ValueError: why \\ud800"
