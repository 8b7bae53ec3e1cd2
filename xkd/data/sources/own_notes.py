"""What `prepare` says about a dataset of one's own: what its files hold, and what is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from xkd.data.media.header import Header
from xkd.data.sources.files import describe_left_out
from xkd.data.sources.layout import Files, SourceClip
from xkd.errors import UserError

COPY = "same content as "
"""Reason to leave a file out, before the name of the one that is kept."""


def general_reason(reason: str) -> str:
    """Return a reason without the name of another file."""
    return f"{COPY}another file" if reason.startswith(COPY) else reason


def note_content(
    files: Files,
    clips: Sequence[SourceClip],
    known: Mapping[str, Header],
    left_out: Mapping[str, str],
) -> None:
    """Note what the files hold, what is left out, and labels that no protocol can use.

    Args:
        known: headers of the files that could be read, by place.
        left_out: why files are no clips, by place.

    Raises:
        UserError: no file is in split train.
    """
    places = dict.fromkeys(clip.place for clip in clips if clip.file)
    headers = [known[place] for place in places if place in known]
    with_sound = sum(bool(h.video and h.audio) for h in headers)
    silent = sum(bool(h.video and not h.audio) for h in headers)
    kinds = {
        ("video with sound", "videos with sound"): with_sound,
        ("video without sound", "videos without sound"): silent,
        ("file of sound alone", "files of sound alone"): sum(not h.video for h in headers),
        ("unreadable file", "unreadable files"): len(places) - len(headers),
    }
    counted = ", ".join(f"{count} {names[count != 1]}" for names, count in kinds.items() if count)
    cut = len({clip.place for clip in clips if clip.exact})
    segments = f"; {cut} cut into {sum(clip.exact for clip in clips)} segments" if cut else ""
    files.notes.append(f"{counted}{segments}")
    reasons: dict[str, list[str]] = defaultdict(list)
    for place, reason in left_out.items():
        other = reason.removeprefix(COPY) if reason.startswith(COPY) else ""
        reasons[general_reason(reason)].append(f"{place} = {other}" if other else place)
    for reason, named in reasons.items():
        files.notes.append(describe_left_out(named, reason))
    if not with_sound and headers:
        alone = "video" if silent else "audio"
        files.notes.append(
            f"no video has sound: pretrain on one modality, with --set modalities=[{alone}] --set "
            "loss.align=0 --set loss.distill=0, or add videos with sound"
        )
    labelled = {split for clip in clips if clip.labels for split in clip.splits}
    bare = [clip for clip in clips if not clip.labels]
    if labelled and (lacking := {split for clip in clips for split in clip.splits} - labelled):
        files.notes.append(
            f"labels only in {', '.join(sorted(labelled))}, none in {', '.join(sorted(lacking))} "
            f"({len(bare)} clips without labels): label both, or no protocol that needs labels can score them"
        )
    elif labelled and bare:
        files.notes.append(f"{len(bare)} clips have no label; they are used for pretraining only")
    splits = {split for clip in clips for split in clip.splits}
    if "train" not in splits:
        raise UserError(
            f"{files.root}: none of {len(places)} files is in split train; add files, or set another "
            "split_seed or a smaller test_share"
        )
    if not {"test", "val"} & splits:
        files.notes.append("all files are in split train: add files, or set another split_seed or test_share")
