"""What is printed after preparing a dataset."""

from __future__ import annotations

from dataclasses import dataclass

from xkd.data.shards.manifest import PreparedDataset, count_classes


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A prepared dataset, and the cost of preparing it."""

    dataset: PreparedDataset
    bytes_in: int
    """Of the source's files."""
    processed: int
    """Clips that this run prepared; 0: the output was complete before."""
    elapsed: float
    """Seconds this run took."""

    def __str__(self) -> str:
        data = self.dataset
        splits = ", ".join(f"{split} {count}" for split, count in data.counts.items())
        damaged = f", {data.damaged} damaged" if data.damaged else ""
        missing = f", {data.missing} missing" if data.missing else ""
        if data.own and (count := sum(data.own["left_out"].values())):
            missing += f", {count} left out"
        speed = f", {self.processed / self.elapsed:.1f} clips/s" if self.processed else ""
        return (
            f"{data.name} {data.revision[:12]}: {len(data.clips)} clips ({splits}), "
            f"{data.seconds / 3600:.2f} h, {count_classes(data.classes)}, {data.without_audio} without audio"
            f"{damaged}, {data.skipped} skipped{missing}; {self.bytes_in / 1e6:.1f} MB in, "
            f"{data.clips.bytes / 1e6:.1f} MB out"
            f"{speed}"
        )
