"""Miniatures of the seven datasets: a few real files each, in exactly the official layout.

Their clips are scenes of the embedded dataset, so that classes are distinguishable. They show the format that
each reader expects, and tests run whole workflows on them; results on them do not carry over to the datasets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from xkd.data.sources.kinetics import KINETICS_SOUND
from xkd.data.sources.source import open_source
from xkd.data.synthetic.files import File, MediaFile, Plan, TextFile, esc50, fsd50k, kinetics, write_files
from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, SECONDS
from xkd.output import OutputDir

_KINETICS = "bowling", "hurling (sport)", "massaging person's head", "petting animal (not cat)", "tap dancing"
_UCF101 = ("ApplyEyeMakeup", "BoxingSpeedBag", "HandstandPushups", "PlayingCello", "YoYo")
_HMDB51 = ("brush_hair", "cartwheel", "pour", "sit", "wave")
_ESC50 = ("dog", "rooster", "rain", "sea_waves", "hand_saw")
_FSD50K = {"Guitar": ("Acoustic_guitar", "Electric_guitar"), "Drum": ("Snare_drum", "Bass_drum")}
"""Leaf labels by their parent."""
_AUDIOSET = {"balanced_train": ("train", 8, 100), "unbalanced_train": ("train", 16, 0), "eval": ("val", 6, 0)}
"""The split of each part, its number of clips, and the first of its scenes."""


def generate_miniature(name: str, out: Path) -> str:
    """Write the miniature `name` to `out`, or keep it when it is complete; return its revision.

    Raises:
        UserError: `out` holds something else, or cannot be written.
    """
    files = [*MINIATURES[name]()]
    texts = {out / file.path: file.text for file in files if isinstance(file, TextFile)}

    def find() -> dict[str, str] | None:
        same = all(path.is_file() and path.read_text() == text for path, text in texts.items())
        return {"name": name} if same else None

    with OutputDir(out, {"name": name}, find).fill() as missing:
        if missing:
            write_files(name, out, files)
        else:
            print(
                f"{out}: {name} ({len(files) - len(texts)} clips) already exists, nothing to do",
                file=sys.stderr,
            )
    return open_source(out, name.removesuffix("-mini")).revision


def _plan(kind: int, number: int, split: str = "train") -> Plan:
    """Return the `number`-th scene of class `kind`: a class is an action and a material."""
    material, action = divmod(kind, len(ACTIONS))
    return Plan(0, split, action + len(ACTIONS) * (material + len(MATERIALS) * number))


def _kinetics(classes: Sequence[str], **counts: int) -> Iterator[File]:
    for split, count in counts.items():
        # Downloaders disagree about the folders; the validation ones here are as torchvision spells them.
        dropped = str.maketrans(" ", "_", "" if split == "train" else "'()")
        clips = (
            (label, label.translate(dropped), _plan(kind, number, split), 10 * number, 10 * number + 10)
            for (kind, label), number in product(enumerate(classes), range(count))
        )
        yield from kinetics(split, clips)


def _audioset() -> Iterator[File]:
    for part, (split, count, first) in _AUDIOSET.items():
        lines = ["# Segments csv created Sun Mar  5 10:54:31 2017", f"# num_ytids={count}, num_segs={count}"]
        lines.append("# YTID, start_seconds, end_seconds, positive_labels")
        for number in range(count):
            plan = _plan(number % len(ACTIONS), number + first, split)
            name, start = f"-{plan.name[2:]}A", 30 * number
            lines.append(f'{name}, {start}.000, {start + 10}.000, "/m/09x0r,/t/dd{number:05d}"')
            # There is no official name; the two here are common.
            stem = name if part == "eval" else f"{name}_{start}_{start + 10}"
            yield MediaFile(f"{part}_segments/{stem}.mp4", plan)
        yield TextFile.lines(f"{part}_segments.csv", lines)


def _ucf101() -> Iterator[File]:
    lists = "ucfTrainTestlist"
    yield TextFile.lines(f"{lists}/classInd.txt", (f"{n} {label}" for n, label in enumerate(_UCF101, 1)))
    # The folder HandstandPushups holds files called HandStandPushups.
    clips = [
        (kind, group, f"{label}/v_{label.replace('Handstand', 'HandStand')}_g{group + 1:02d}_c01.avi")
        for (kind, label), group in product(enumerate(_UCF101), range(9))
    ]
    for kind, group, place in clips:
        # About half of the real classes are silent.
        yield MediaFile(f"UCF-101/{place}", _plan(kind, group), silent=place.startswith("YoYo"))
    for fold in range(3):
        train = (f"{place} {kind + 1}" for kind, group, place in clips if group % 3 != fold)
        yield TextFile.lines(f"{lists}/trainlist0{fold + 1}.txt", train)
        test = (place for _, group, place in clips if group % 3 == fold)
        yield TextFile.lines(f"{lists}/testlist0{fold + 1}.txt", test)


def _hmdb51() -> Iterator[File]:
    tags = "112112120"  # 1: train, 2: test, 0: unused
    for kind, label in enumerate(_HMDB51):
        names = [f"(Rad)Schlag_die_Bank!_{label}_f_cm_np1_le_med_{number}.avi" for number in range(len(tags))]
        for fold in range(3):
            tagged = zip(names, tags[fold:] + tags[:fold], strict=True)
            path = f"testTrainMulti_7030_splits/{label}_test_split{fold + 1}.txt"
            yield TextFile.lines(path, (f"{name} {tag} " for name, tag in tagged))
        for number, name in enumerate(names):
            yield MediaFile(f"HMDB-51/{label}/{name}", _plan(kind, number), silent=True)


def _esc50() -> Iterator[File]:
    return esc50(
        (fold, 1000 + 10 * n + target, "ABC"[n % 3], target, label, target < 2, _plan(target, n))
        for fold, (target, label), take in product(range(1, 6), enumerate(_ESC50), range(3))
        for n in (3 * fold + take,)
    )


def _fsd50k() -> Iterator[File]:
    leaves = [(leaf, parent) for parent, children in _FSD50K.items() for leaf in children]
    tags = sorted({*(label for pair in leaves for label in pair), "Music"})
    clips = (
        (
            part,
            first + 100 * kind + number,
            (leaf, parent, "Music"),
            "val" if number % 5 == 4 else "train",
            _plan(kind, number, split),
            0.3 + (7 * number + 3 * kind) % 19 / 19 * (SECONDS - 0.3),
        )
        for part, first, split, count in (("dev", 64760, "train", 15), ("eval", 37199, "val", 4))
        for (kind, (leaf, parent)), number in product(enumerate(leaves), range(count))
    )
    return fsd50k({tag: f"/m/0{number:04d}" for number, tag in enumerate(tags)}, clips)


MINIATURES: Mapping[str, Callable[[], Iterator[File]]] = {
    "kinetics400-mini": lambda: _kinetics(_KINETICS, train=6, val=3),
    "kinetics_sound-mini": lambda: _kinetics((*KINETICS_SOUND, "yoga"), train=2, val=1),
    "audioset-mini": _audioset,
    "ucf101-mini": _ucf101,
    "hmdb51-mini": _hmdb51,
    "esc50-mini": _esc50,
    "fsd50k-mini": _fsd50k,
}
"""By name: lists the files."""
