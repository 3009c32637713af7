"""
The classifier: text to facts behind bounded caches. The analysis itself is in `analyse`.

Most traffic of the simple protocol differs in constants only, so caches go by a text's shape, from
the cheapest key to the dearest: the text with its digits zeroed, the text itself, the text with its
literals emptied. Why texts of one shape may share an analysis is in `shapes`.

This file is typed so that mypyc compiles it, for the hit path; it runs the same uncompiled.
"""

from typing import Final, final

from proxy.session.ports import Classifier
from proxy.sql.analyse import analyse, unknown_facts, with_text
from proxy.sql.shapes import literal_shape
from proxy.sql.statement import StatementFacts, TextFacts

_ZEROES: Final = bytes.maketrans(b"123456789", b"000000000")

# Before literal shapes whose digits count: no text has a NUL, so no other shape begins so.
_DIGITS_COUNT: Final = b"\0"

# What an entry keeps besides its key: objects, the text, the normalized text, both in the head, and
# the normalized one once more in what is behind the text there.
_BYTES_PER_TEXT_BYTE: Final = 6
_BYTES_PER_ENTRY: Final = 1_500


@final
class Entry:
    """One cached analysis: of `text`, with each statement's place in it."""

    __slots__ = ("facts", "spans", "text")

    def __init__(self, text: bytes, facts: TextFacts, spans: tuple[tuple[int, int], ...]) -> None:
        self.text = text
        self.facts = facts
        self.spans = spans


@final
class Generations:
    """
    A bounded dictionary in two generations.

    A hit in the young one changes nothing; one in the old one moves the entry to the young. When
    the young one is full it becomes the old one, and what the old one still held is forgotten.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_entries", "_old", "_young")

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._young: dict[bytes, Entry] = {}
        self._old: dict[bytes, Entry] = {}
        self._bytes = 0
        self._max_entries = max(1, max_entries // 2)
        self._max_bytes = max_bytes // 2

    def get(self, key: bytes) -> Entry | None:
        """The entry under this key, if it is still there."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is not None:
                self.put(key, entry)
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Store an entry; what was not used for longest may go."""
        # Several keys may lead to one entry; it is counted for each, since any may be the last.
        size = len(key) + len(entry.text) * _BYTES_PER_TEXT_BYTE + _BYTES_PER_ENTRY
        if len(self._young) >= self._max_entries or self._bytes + size > self._max_bytes:
            self._old = self._young
            self._young = {}
            self._bytes = 0
        self._young[key] = entry
        self._bytes += size

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


@final
class PgClassifier(Classifier):
    """
    The `Classifier` on PostgreSQL's own grammar.

    hits      texts answered from a cache
    misses    texts that were analysed
    unknowns  those among them, and those given to `unknown`, that are of kind unknown
    """

    def __init__(
        self,
        max_text_bytes: int = 65_536,
        cache_entries: int = 10_000,
        cache_bytes: int = 64 << 20,
    ) -> None:
        self.max_text_bytes = max_text_bytes
        self.hits = 0
        self.misses = 0
        self.unknowns = 0
        part = cache_bytes // 5
        self._by_shape = Generations(cache_entries, part * 2)
        self._by_text = Generations(cache_entries, part)
        self._by_literals = Generations(cache_entries, part)

    def facts(self, text: bytes) -> TextFacts:
        """Facts on a text; those of another one that differs in constants only."""
        if len(text) > self.max_text_bytes:
            return self.unknown(text)
        return self._entry(text).facts

    def known(self, text: bytes, is_parsed: bool) -> TextFacts | None:
        """Facts on a text that need no parser."""
        # No text with a NUL was ever stored, and its NULs stay in every key.
        entry = self._by_text.get(text) if is_parsed else None
        if entry is None:
            entry = self._by_shape.get(text.translate(_ZEROES))
        if entry is None and not is_parsed:
            entry = self._by_text.get(text)
        if entry is None:
            return None
        self.hits += 1
        return entry.facts

    def exact(self, text: bytes) -> TextFacts:
        """Facts on this very text."""
        if len(text) > self.max_text_bytes:
            return self.unknown(text)
        entry = self._entry(text)
        if entry.text == text:
            return entry.facts
        return _rewritten(entry, text)

    def unknown(self, text: bytes) -> TextFacts:
        """One statement of kind unknown; not cached."""
        self.unknowns += 1
        return unknown_facts(text)

    def _entry(self, text: bytes) -> Entry:
        zeroed = text.translate(_ZEROES)
        entry = self._by_shape.get(zeroed)
        if entry is None:
            entry = self._by_text.get(text)
            if entry is None:
                return self._by_literals_or_new(text, zeroed)
        self.hits += 1
        return entry

    def _by_literals_or_new(self, text: bytes, zeroed: bytes) -> Entry:
        shape = literal_shape(text)
        if shape is not None:
            entry = self._by_literals.get(shape.translate(_ZEROES))
            if entry is not None:
                self.hits += 1
                self._by_shape.put(zeroed, entry)
                return entry
            entry = self._by_literals.get(_DIGITS_COUNT + shape)
            if entry is not None:
                self.hits += 1
                self._by_text.put(text, entry)
                return entry
        self.misses += 1
        analysis = analyse(text, self.max_text_bytes)
        if not analysis.known:
            self.unknowns += 1
        entry = Entry(text, analysis.facts, analysis.spans)
        if analysis.by_digits:
            self._by_shape.put(zeroed, entry)
            if shape is not None and analysis.by_literals:
                self._by_literals.put(shape.translate(_ZEROES), entry)
        else:
            self._by_text.put(text, entry)
            if shape is not None and analysis.by_literals:
                self._by_literals.put(_DIGITS_COUNT + shape, entry)
        return entry


def _rewritten(entry: Entry, text: bytes) -> TextFacts:
    """
    The entry's facts for this text of the same shape.

    Of several statements only digits differ, which keep their places, so spans stay; of a single
    one the whole text is its own.
    """
    known = entry.facts.statements
    if len(known) == 1:
        return TextFacts((with_text(known[0], text),))
    statements: list[StatementFacts] = []
    for position, facts in enumerate(known):
        start, end = entry.spans[position]
        statements.append(with_text(facts, text[start:end]))
    return TextFacts(tuple(statements))
