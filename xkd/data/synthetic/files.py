"""The clips of generated datasets, and their files in official layouts: video, wav, annotations."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import wave
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from xkd.data.synthetic.audio import RATE, Timbre, synthesize
from xkd.data.synthetic.scenes import ACTIONS, MATERIALS, SECONDS, Scene
from xkd.data.synthetic.video import FPS, SIDE, render
from xkd.errors import UserError
from xkd.io import write_text
from xkd.parallel.limits import cores
from xkd.parallel.processes import Failure, run_each
from xkd.progress import progress

VERSION = 2
"""Part of the embedded dataset's revision: raise it whenever a clip would come out differently."""

_SPECIMENS = {"train": 10, "val": 4}
_WAV_RATE = 44100
_SECONDS_LIMIT = 120.0
"""Longest that a single clip may take."""


@dataclass(frozen=True)
class Plan:
    """One clip of a seed and a split; rendering it needs nothing else.

    Its representation, ``Plan(seed=..., split=..., index=...)``, determines `name`.
    """

    seed: int
    split: str
    index: int

    @property
    def action(self) -> str:
        """The first label."""
        return list(ACTIONS)[self.index % len(ACTIONS)]

    @property
    def material(self) -> str:
        """The second label, independent of the first."""
        return MATERIALS[self.index // len(ACTIONS) % len(MATERIALS)]

    @property
    def specimen(self) -> int:
        """Number of the specimen that sounds, among the split's of this material; covers all pairs."""
        block = self.index // len(ACTIONS)
        return sum(divmod(block, len(MATERIALS))) % _SPECIMENS[self.split]

    @property
    def fold(self) -> int:
        """ESC-50's fold, 1-5: no two folds share a specimen."""
        return self.specimen % 5 + 1

    @property
    def name(self) -> str:
        """Eleven characters, as Kinetics names its clips."""
        return f"{self.split[0]}-{hashlib.sha256(repr(self).encode()).hexdigest()[:9]}"

    def rng(self, purpose: str) -> np.random.Generator:
        """Return an independent stream of random numbers per purpose."""
        key = hashlib.sha256(f"{purpose} {self.split} {self.index}".encode()).digest()
        return np.random.default_rng([self.seed, VERSION, int.from_bytes(key[:8])])

    def timbre(self) -> Timbre:
        """Return the specimen's modes: equal in all clips of the split, absent from the other split."""
        key = hashlib.sha256(f"{self.split} {self.material} {self.specimen}".encode()).digest()
        return Timbre.draw(np.random.default_rng([self.seed, int.from_bytes(key[:8])]), self.material)

    def frames(self) -> NDArray[np.uint8]:
        """Render the frames (T, SIDE, SIDE, 3)."""
        return render(self.rng("frames"), self._scene)

    def waveform(self) -> NDArray[np.float32]:
        """Synthesize the sound (SECONDS * RATE,) within ±1."""
        return synthesize(self.rng("sound"), self._scene, self.timbre())

    @property
    def _scene(self) -> Scene:
        """The motion that is both rendered and synthesized."""
        return Scene.draw(self.rng("scene"), self.action, self.material)


@dataclass(frozen=True)
class MediaFile:
    """A video of a clip, or its soundtrack where the name ends in ``.wav``."""

    path: str
    """Relative to the dataset."""
    plan: Plan
    seconds: float = SECONDS
    """Length of a soundtrack."""
    silent: bool = False
    """Whether a video has no soundtrack."""


@dataclass(frozen=True)
class TextFile:
    """An annotation file."""

    path: str
    """Relative to the dataset."""
    text: str

    @classmethod
    def table(cls, path: str, rows: Iterable[Sequence[object]]) -> TextFile:
        """Return a CSV file with Unix line ends."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return cls(path, text.getvalue())

    @classmethod
    def lines(cls, path: str, lines: Iterable[str]) -> TextFile:
        """Return a file of lines."""
        return cls(path, "".join(f"{line}\n" for line in lines))


File = MediaFile | TextFile
Rows = list[Sequence[object]]


def kinetics(split: str, clips: Iterable[tuple[str, str, Plan, int, int]], root: str = "") -> Iterator[File]:
    """Lay out a split of Kinetics400 from (label, folder, plan, start, end) of each clip."""
    rows: Rows = [("label", "youtube_id", "time_start", "time_end", "split", "is_cc")]
    for label, folder, plan, start, end in clips:
        rows.append((label, plan.name, start, end, split, 0))
        yield MediaFile(f"{root}{split}/{folder}/{plan.name}_{start:06d}_{end:06d}.mp4", plan)
    yield TextFile.table(f"{root}{split}.csv", rows)


def esc50(clips: Iterable[tuple[int, int, str, int, str, bool, Plan]], root: str = "") -> Iterator[File]:
    """Lay out ESC-50 from (fold, source file, take, target, label, whether in ESC-10, plan) of each clip."""
    rows: Rows = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    for fold, source, take, target, label, esc10, plan in clips:
        name = f"{fold}-{source}-{take}-{target}.wav"
        rows.append((name, fold, target, label, esc10, source, take))
        yield MediaFile(f"{root}audio/{name}", plan, seconds=5.0)
    yield TextFile.table(f"{root}meta/esc50.csv", rows)


def fsd50k(
    mids: Mapping[str, str],
    clips: Iterable[tuple[str, int, tuple[str, ...], str, Plan, float]],
    root: str = "",
) -> Iterator[File]:
    """Lay out FSD50K from (``dev`` or ``eval``, number, labels, split, plan, seconds) of each clip.

    The vocabulary `mids` has the sorted labels and their identifiers. Only the table of ``dev`` has a split.
    """
    truth = f"{root}FSD50K.ground_truth"
    yield TextFile.table(f"{truth}/vocabulary.csv", ((row, *item) for row, item in enumerate(mids.items())))
    rows = {part: [("fname", "labels", "mids", "split")] for part in ("dev", "eval")}
    for part, number, labels, split, plan, seconds in clips:
        rows[part].append((str(number), ",".join(labels), ",".join(mids[tag] for tag in labels), split))
        yield MediaFile(f"{root}FSD50K.{part}_audio/{number}.wav", plan, seconds=seconds)
    yield TextFile.table(f"{truth}/dev.csv", rows["dev"])
    yield TextFile.table(f"{truth}/eval.csv", [row[:3] for row in rows["eval"]])


def write_files(name: str, root: Path, files: Iterable[File]) -> None:
    """Write the media files in several processes, then the annotation files.

    Raises:
        UserError: a file cannot be written.
    """
    files = list(files)
    clips: dict[Plan, list[MediaFile]] = {}
    for file in files:
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, MediaFile):
            clips.setdefault(file.plan, []).append(file)
    write = functools.partial(_write_clip, root)
    with progress(name, len(clips)) as bar:
        for outcome in run_each(write, [*clips.items()], cores(), _SECONDS_LIMIT):
            if isinstance(outcome, Failure):
                raise UserError(f"cannot write {name} to {root}: {outcome.reason}")
            bar.advance()
    for file in files:
        if isinstance(file, TextFile):
            write_text(root / file.path, file.text)


def _write_clip(root: Path, clip: tuple[Plan, list[MediaFile]]) -> None:
    """Write all files of a clip, whose waveform is synthesized once."""
    plan, files = clip
    waveform = None if all(file.silent for file in files) else plan.waveform()
    for file in files:
        if waveform is not None and file.path.endswith(".wav"):
            write_wav(root / file.path, waveform[: round(file.seconds * RATE)])
        else:
            write_video(root / file.path, plan.frames(), waveform)


def write_video(path: Path, frames: NDArray[np.uint8], waveform: NDArray[np.float32] | None) -> None:
    """Encode frames (T, SIDE, SIDE, 3) and a waveform (S,) with the encoders that PyAV includes.

    A name in ``.avi`` gets MPEG-4 with B-frames and MP3, as in UCF101 and HMDB51, any other H.264 and AAC.
    """
    old = path.suffix == ".avi"
    picture_options = {"q": "3", "bf": "2"} if old else {"preset": "veryfast", "crf": "25"}
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4" if old else "libx264", rate=FPS, options=picture_options)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        video.gop_size = FPS
        video.thread_count = 1  # the encoding must not depend on the cores
        audio = None
        if waveform is not None:
            audio = file.add_stream("mp3" if old else "aac", rate=RATE, layout="mono", bit_rate=64000)
        for index, picture in enumerate(frames):
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            image.pts = index
            file.mux(video.encode(image))
        file.mux(video.encode())
        if audio is not None and waveform is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
            file.mux(audio.encode(sound))
            file.mux(audio.encode())


def write_wav(path: Path, waveform: NDArray[np.float32]) -> None:
    """Write 16-bit mono at 44.1 kHz, as in ESC-50 and FSD50K."""
    # Band-limited resampling: the spectrum padded to the new rate.
    count = round(len(waveform) * _WAV_RATE / RATE)
    resampled = np.fft.irfft(np.fft.rfft(waveform), count) * (count / len(waveform))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_WAV_RATE)
        file.writeframes((np.clip(resampled, -1, 1) * 32767).astype("<i2").tobytes())
