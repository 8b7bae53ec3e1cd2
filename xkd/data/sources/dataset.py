"""A dataset before it is prepared: its clips and its revision."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xkd.data.sources.layout import Kind, SourceClip
from xkd.data.sources.own import Probe


@dataclass(frozen=True, kw_only=True)
class SourceDataset:
    """A dataset as downloaded."""

    root: Path
    name: str
    revision: str
    """Identifies the clips: changes when the listed files, their sizes, splits or labels do."""
    kind: Kind
    clips: tuple[SourceClip, ...]
    """Clips whose files exist."""
    missing: tuple[SourceClip, ...] = ()
    """Clips whose files do not."""
    origin: Mapping[str, str] | None = None
    """Of a dataset fetched from a registry: its ``repo``, the commit ``rev`` and DVC's ``hash``."""
    own: Mapping[str, Any] | None = None
    """Of a dataset of one's own: its layout, and how it was split and cut, for dataset.json."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Of one's own: files that are no clips, each with the reason."""
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Of one's own: what the headers of the files tell, by their places."""

    def describe_missing(self) -> str:
        """Return '3 of 30 listed files are missing (by class: Archery 2, Bowling 1)', most affected first."""
        labels = (label for clip in self.missing for label in clip.labels or ("no label",))
        classes = [f"{label} {count}" for label, count in Counter(labels).most_common()]
        more = f", and {len(classes) - 5} more" if len(classes) > 5 else ""
        listed = len(self.clips) + len(self.missing)
        shown = f"{', '.join(classes[:5])}{more}"
        return f"{len(self.missing)} of {listed} listed files are missing (by class: {shown})"


def hash_clips(clips: Sequence[SourceClip], probes: Mapping[str, Probe] | None = None) -> str:
    """Return a revision from the listing and the sizes, or the fingerprints, of the files."""
    digest = hashlib.sha256()
    for clip in clips:
        size = str(clip.file.size if clip.file else 0)
        if probes:
            size = probes[clip.place].fingerprint
        row = (clip.id, *clip.splits, *clip.labels, size, *map(str, clip.segment or ()))
        digest.update("\0".join(row).encode() + b"\n")
    return digest.hexdigest()[:16]
