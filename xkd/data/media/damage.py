"""Damage: what it costs, and when too little is left of a file."""

from __future__ import annotations

from dataclasses import dataclass

from xkd.data.media.clock import SECOND

_SHORTEST = SECOND // 10
"""Ticks of the shortest clip, and of the shortest sound that counts as one."""
_SHORTEST_DAMAGED = SECOND
"""Ticks that must be left of a damaged file, unless it announces less than twice as much: then half."""
_EARLY = SECOND // 2
"""Ticks by which a file may end before the duration that it announces."""
_LONG_GAP, _LONGEST_GAP = 60 * SECOND, 3600 * SECOND
"""Ticks without pictures or sound beyond which the file must announce them, and that are never believed."""


class MediaError(Exception):
    """A file that cannot be decoded. It is counted and skipped, and alone never stops a run."""


@dataclass
class Damage:
    """The parts of a file that could not be decoded; as text, empty if all could."""

    video_packets: int = 0
    """Undecodable packets and incomplete pictures."""
    audio_packets: int = 0
    reads: int = 0
    """Places where the container could not be read, or has impossible times."""
    missing: float = 0.0
    """Seconds that the file announces, but does not hold."""

    def __str__(self) -> str:
        counts = ((self.video_packets, "picture"), (self.audio_packets, "audio packet"))
        parts = [f"{count} damaged {what}{'s' * (count > 1)}" for count, what in counts if count]
        parts += [f"{self.reads} unreadable part{'s' * (self.reads > 1)}"] * bool(self.reads)
        parts += [f"ends {self.missing:.1f} s early"] * bool(self.missing)
        return ", ".join(parts)

    def check(self, duration: int, longest: int, announced: int | None) -> None:
        """Check that enough is left of a file.

        Args:
            duration: of the clip, ticks.
            longest: duration of the stream that ends last, ticks.
            announced: duration that the file announces for all that was read, ticks; None: unknown.

        Raises:
            MediaError: the clip is too short, or damage left too little.
        """
        if announced is not None and announced - longest > _EARLY:
            self.missing = (announced - longest) / SECOND
        least = _SHORTEST_DAMAGED if announced is None else min(_SHORTEST_DAMAGED, announced // 2)
        if str(self) and duration < least:
            raise MediaError(f"only {duration / SECOND:.2f} s are left: {self}")
        if duration < _SHORTEST:
            raise MediaError(f"too short: {duration / SECOND:.3f} s")


def is_heard(duration: int) -> bool:
    """Return whether sound of so many ticks counts as one."""
    return duration >= _SHORTEST


def is_believable(last: int, time: int, length: int) -> bool:
    """Return whether nothing is displayed or heard between two times, ticks; otherwise the later is wrong.

    Args:
        last: where the pictures or the sound before end.
        time: where the next begin.
        length: duration of the file as FFmpeg knows it; 0: it does not.
    """
    return time - last <= _LONG_GAP or (time - last <= _LONGEST_GAP and time <= length)
