"""Parts of a dataset that several processes prepare, also on different machines."""

from __future__ import annotations

from dataclasses import dataclass

from xkd.errors import UserError


@dataclass(frozen=True)
class Part:
    """One of several parts of a dataset."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Return the part of a text such as ``3/16``.

        Raises:
            UserError: there is no such part.
        """
        words = text.split("/")
        if len(words) == 2 and all(word.isascii() and word.isdecimal() for word in words):
            part = cls(*map(int, words))
            if 1 <= part.number <= part.count:
                return part
        raise UserError(f"part must be a number and how many there are, such as 3/16, not {text!r}")

    def of(self, total: int) -> range:
        """Return which of `total` shards are of this part."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)
