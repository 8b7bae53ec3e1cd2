"""Miniatures of the seven datasets: a few real files each, in exactly the official layout.

Their clips are scenes of the embedded dataset, so that a class can be told; they show what each reader
expects, and whole workflows are tried on them. They say nothing about the real datasets.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType

from xkd.data.sources.kinetics import KINETICS_SOUND
from xkd.data.sources.source import open_source
from xkd.data.synthetic.audio import RATE
from xkd.data.synthetic.dataset import Plan
from xkd.data.synthetic.files import write_table, write_video, write_wav
from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, SECONDS
from xkd.errors import UserError
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

_SUFFIX = "-mini"
_PATIENCE = 120.0  # seconds for one clip


@dataclass(frozen=True)
class _Clip:
    """One media file to write."""

    place: Path
    plan: Plan
    seconds: float = SECONDS
    """Of a wav."""
    silent: bool = False


def _plan(kind: int, number: int, split: str = "train") -> Plan:
    """The `number`-th scene of class `kind`: a class is an action and a material."""
    material, action = divmod(kind, len(ACTIONS))
    return Plan(0, split, action + len(ACTIONS) * (material + len(MATERIALS) * number))


def _write_kinetics(root: Path, classes: tuple[str, ...], train: int, val: int) -> Iterator[_Clip]:
    for split, count in (("train", train), ("val", val)):
        rows: list[tuple[object, ...]] = [("label", "youtube_id", "time_start", "time_end", "split", "is_cc")]
        for (kind, label), number in product(enumerate(classes), range(count)):
            plan, start = _plan(kind, number, split), 10 * number
            rows.append((label, plan.name, start, start + 10, split, 0))
            # Downloaders disagree about the folders; the validation ones here are as torchvision spells them.
            folder = label.replace(" ", "_")
            folder = folder if split == "train" else "".join(c for c in folder if c not in "'()")
            yield _Clip(root / split / folder / f"{plan.name}_{start:06d}_{start + 10:06d}.mp4", plan)
        write_table(root / f"{split}.csv", rows)


def _write_kinetics400(root: Path) -> Iterator[_Clip]:
    classes = (
        "bowling",
        "hurling (sport)",
        "massaging person's head",
        "petting animal (not cat)",
        "tap dancing",
    )
    return _write_kinetics(root, classes, 6, 3)


def _write_kinetics_sound(root: Path) -> Iterator[_Clip]:
    return _write_kinetics(root, (*KINETICS_SOUND, "yoga"), 2, 1)


def _write_audioset(root: Path) -> Iterator[_Clip]:
    for part, split, count in (
        ("balanced_train", "train", 8),
        ("unbalanced_train", "train", 16),
        ("eval", "val", 6),
    ):
        lines = ["# Segments csv created Sun Mar  5 10:54:31 2017", f"# num_ytids={count}, num_segs={count}"]
        lines.append("# YTID, start_seconds, end_seconds, positive_labels")
        for number in range(count):
            plan = _plan(number % len(ACTIONS), number + (100 if part == "balanced_train" else 0), split)
            name, start = f"-{plan.name[2:]}A", 30 * number
            lines.append(f'{name}, {start}.000, {start + 10}.000, "/m/09x0r,/t/dd{number:05d}"')
            # There is no official name; the two here are common.
            stem = name if part == "eval" else f"{name}_{start}_{start + 10}"
            yield _Clip(root / f"{part}_segments" / f"{stem}.mp4", plan)
        _write_lines(root / f"{part}_segments.csv", lines)


def _write_ucf101(root: Path) -> Iterator[_Clip]:
    # The folder HandstandPushups holds files called HandStandPushups; about half of the classes are silent.
    classes = {
        "ApplyEyeMakeup": "ApplyEyeMakeup",
        "BoxingSpeedBag": "BoxingSpeedBag",
        "HandstandPushups": "HandStandPushups",
        "PlayingCello": "PlayingCello",
        "YoYo": "YoYo",
    }
    groups, lists = 9, root / "ucfTrainTestlist"
    _write_lines(lists / "classInd.txt", [f"{number} {label}" for number, label in enumerate(classes, 1)])
    train: list[list[str]] = [[], [], []]
    test: list[list[str]] = [[], [], []]
    for (kind, (label, name)), group in product(enumerate(classes.items()), range(groups)):
        place = f"{label}/v_{name}_g{group + 1:02d}_c01.avi"
        for fold in range(3):
            if group % 3 == fold:
                test[fold].append(place)
            else:
                train[fold].append(f"{place} {kind + 1}")
        yield _Clip(root / "UCF-101" / place, _plan(kind, group), silent=label == "YoYo")
    for fold in range(3):
        _write_lines(lists / f"trainlist0{fold + 1}.txt", train[fold])
        _write_lines(lists / f"testlist0{fold + 1}.txt", test[fold])


def _write_hmdb51(root: Path) -> Iterator[_Clip]:
    lists, tags = root / "testTrainMulti_7030_splits", "112112120"
    for kind, label in enumerate(("brush_hair", "cartwheel", "pour", "sit", "wave")):
        names = [f"(Rad)Schlag_die_Bank!_{label}_f_cm_np1_le_med_{number}.avi" for number in range(len(tags))]
        for fold in range(3):
            turned = tags[fold:] + tags[:fold]
            _write_lines(
                lists / f"{label}_test_split{fold + 1}.txt",
                [f"{name} {tag} " for name, tag in zip(names, turned, strict=True)],
            )
        for number, name in enumerate(names):
            yield _Clip(root / "HMDB-51" / label / name, _plan(kind, number), silent=True)


def _write_esc50(root: Path) -> Iterator[_Clip]:
    rows: list[tuple[object, ...]] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    labels = ("dog", "rooster", "rain", "sea_waves", "hand_saw")
    for fold, (target, label), take in product(range(1, 6), enumerate(labels), range(3)):
        number = 3 * fold + take
        name = f"{fold}-{1000 + 10 * number + target}-{'ABC'[take]}-{target}.wav"
        rows.append((name, fold, target, label, target < 2, 1000 + 10 * number + target, "ABC"[take]))
        yield _Clip(root / "audio" / name, _plan(target, number), 5.0)
    write_table(root / "meta" / "esc50.csv", rows)


def _write_fsd50k(root: Path) -> Iterator[_Clip]:
    parents = {
        "Acoustic_guitar": "Guitar",
        "Electric_guitar": "Guitar",
        "Snare_drum": "Drum",
        "Bass_drum": "Drum",
    }
    tags = sorted({*parents, *parents.values(), "Music"})
    mids = {tag: f"/m/0{number:04d}" for number, tag in enumerate(tags)}
    truth = root / "FSD50K.ground_truth"
    write_table(truth / "vocabulary.csv", [(number, tag, mids[tag]) for number, tag in enumerate(tags)])
    for part, first, split, count in (("dev", 64760, "train", 15), ("eval", 37199, "val", 4)):
        rows: list[tuple[str, ...]] = [("fname", "labels", "mids", "split")]
        for (kind, leaf), number in product(enumerate(parents), range(count)):
            name, labels = str(first + 100 * kind + number), (leaf, parents[leaf], "Music")
            role = "val" if number % 5 == 4 else "train"
            rows.append((name, ",".join(labels), ",".join(mids[label] for label in labels), role))
            seconds = 0.3 + (7 * number + 3 * kind) % 19 / 19 * (SECONDS - 0.3)
            yield _Clip(root / f"FSD50K.{part}_audio" / f"{name}.wav", _plan(kind, number, split), seconds)
        write_table(truth / f"{part}.csv", rows if part == "dev" else [row[:3] for row in rows])


REPLICAS: Mapping[str, Callable[[Path], Iterator[_Clip]]] = MappingProxyType(
    {
        f"{name}{_SUFFIX}": write
        for name, write in {
            "kinetics400": _write_kinetics400,
            "kinetics_sound": _write_kinetics_sound,
            "audioset": _write_audioset,
            "ucf101": _write_ucf101,
            "hmdb51": _write_hmdb51,
            "esc50": _write_esc50,
            "fsd50k": _write_fsd50k,
        }.items()
    }
)
"""By name: what writes a replica's annotation files and says which media files belong to them."""


def generate_replica(name: str, out: Path) -> str:
    """Write the replica `name` to `out`, or keep it when it is there already.

    Returns:
        Its revision (see `xkd.data.sources.source.Source`).

    Raises:
        UserError: `out` holds something else, or cannot be written.
    """
    dataset = name.removesuffix(_SUFFIX)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        clips = list(REPLICAS[name](partial))
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            _check_same(partial, out, name)
            print(f"{out}: {name} ({len(clips)} clips) is there already; kept", file=sys.stderr)
            return open_source(out, dataset).revision
        for folder in {clip.place.parent for clip in clips}:
            folder.mkdir(parents=True, exist_ok=True)
        with progress(name, len(clips)) as bar:
            for outcome in run_each(_write_clip, clips, len(os.sched_getaffinity(0)), _PATIENCE):
                if isinstance(outcome, Failure):
                    raise UserError(f"cannot write {name} to {out}: {outcome.reason}")
                bar.advance()
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {name} to {out}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_source(out, dataset).revision


def _check_same(lists: Path, out: Path, name: str) -> None:
    """Refuse a directory that does not have these annotation files."""
    for path in lists.rglob("*"):
        there = out / path.relative_to(lists)
        if path.is_file() and not (there.is_file() and there.read_bytes() == path.read_bytes()):
            raise UserError(f"{out} holds something else than {name}; choose another directory or remove it")


def _write_clip(clip: _Clip) -> None:
    if clip.place.suffix == ".wav":
        write_wav(clip.place, clip.plan.waveform()[: round(clip.seconds * RATE)])
    else:
        write_video(clip.place, clip.plan.frames(), None if clip.silent else clip.plan.waveform())


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
