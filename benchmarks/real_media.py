"""Compare what `prepare` makes of real media files with what the ffmpeg program decodes.

    python benchmarks/real_media.py --files /tmp/xkd-files     # needs ffmpeg, apt-get, pip and npm

It prepares the files of `benchmarks/real_files.py`, those with pictures as a Kinetics folder and the others
as an ESC-50 folder, and prints a line per file. Its exit status is 1 if a file differs for a reason that
`EXPLAINED` does not have.
"""

from __future__ import annotations

import collections
import fnmatch
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import parser
from benchmarks.media_dataset import lay_out
from benchmarks.real_decoding import RATE, Film, Reference, decode_prepared
from benchmarks.real_files import collect
from xkd.data.shards.prepare import PrepareConfig, prepare

_SHORTER = "shorter than 0.1 s, such as a single packet of sound: no clip (docs/data.md)"
_CUT_OFF = (
    "the package holds the beginning of a longer file, less than 1 s: too little is left (docs/data.md)"
)
_LATE = "only times of decoding are stored: ffmpeg counts the decoder's delay, picture k is at k / rate"
_OPUS = "ffmpeg starts Matroska at what Opus's encoder put in front of the sound, 6.5 ms"
EXPLAINED = (
    ("*", "prepare: too short: 0.0*, ffmpeg: decodes", _SHORTER),
    ("*", "prepare: only 0.*, ffmpeg: decodes", _CUT_OFF),
    ("gem-doc/*/alea.mpg", "times 33.3 ms apart (median 33.3)", _LATE),
    ("wx3.2-examples/*/press.mpg", "times 40.0 ms apart (median 40.0)", _LATE),
    ("xine-ui/*/default.mpv", "times 40.0 ms apart (median 40.0)", _LATE),
    ("opencv-doc/*/Megamind.avi", "times 41.7 ms apart (median 41.7)", _LATE),
    ("opencv-doc/*/Megamind_bugy.avi", "times 33.3 ms apart (median 33.3)", _LATE),
    ("opencv-doc/*/box.mp4", "times 68.0 ms apart (median 67.0)", _LATE),
    ("linphone-common/*.mkv", "sound -6.5 ms late", _OPUS),
    ("audio-lena/lena.webm", "sound -6.5 ms late", _OPUS),
    (
        "linphone-common/*/silence.mkv",
        "sound 5.968 s for 6.005",
        "silence that PyAV says to start at 32 ms, and ffmpeg at -7 ms",
    ),
    (
        "sound-theme-freedesktop/*/suspend-error.oga",
        "sound 1.4 ms late",
        "Vorbis that starts with its second packet, at 2.9 ms: ffmpeg starts it at 1.5 ms",
    ),
    (
        "mutagen/*/issue_29.wma",
        "*sound*",
        "cut off inside a packet; the first time of WMA is 36 ms later than the others say",
    ),
    (
        "mutagen/*/silence-3.wma",
        "sound 3.685 s for 5.635",
        "ffmpeg 5.1 gives WMA Lossless times after its end; the header says 3.684 s",
    ),
    (
        "mutagen/*/silence-1.wma",
        "sound 3.755 s for 3.797",
        "the first time of WMA is 43 ms later than the others say; ffmpeg believes it",
    ),
)
"""What differs for a known reason: patterns of the file and of the difference, and the reason."""
_LOW = 1500.0
"""Hz, up to which sounds are compared."""
_LONGEST = 60
"""Seconds of sound that are compared; the rest of a longer file only by its length."""
# Up to where two decodings are equal.
_TIME = 0.001
"""Seconds between the times of a picture; the prepared ones are rounded."""
_PICTURE = 6.0
"""Mean difference of a picture of 32x24, levels: it was scaled and encoded again."""
_ASPECT = 0.04
"""Relative difference of width by height; both are even."""
_LENGTH = 0.025
"""Seconds of sound."""
_LAG = 0.001
"""Seconds between the sounds."""
_CORRELATION = 0.99


def main() -> int:
    """Compare all files; return the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("--files", type=Path, help="folder that keeps the downloads")
    arguments.add_argument("--only", default="*", help="pattern of names")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = {
            name: path
            for name, path in collect(options.files or Path(scratch, "files"))
            if fnmatch.fnmatch(name, options.only)
        }
        outcomes = compare(files, Path(scratch))
    unexplained = 0
    for name, problems in outcomes.items():
        reasons = {problem: _explain(name, problem) for problem in problems}
        unexplained += None in reasons.values()
        status = "equal" if not problems else "DIFFERENT" if None in reasons.values() else "explained"
        details = "; ".join(f"{text} ({reason})" if reason else text for text, reason in reasons.items())
        print(f"{status:9}  {name}{': ' * bool(details)}{details}")
    equal = sum(not problems for problems in outcomes.values())
    explained = len(outcomes) - equal - unexplained
    print(f"{len(outcomes)} files: {equal} equal, {explained} explained, {unexplained} different")
    return 1 if unexplained else 0


def _explain(name: str, problem: str) -> str | None:
    """Return why something differs; None: not known."""
    for file, difference, reason in EXPLAINED:
        if fnmatch.fnmatchcase(name, file) and fnmatch.fnmatchcase(problem, difference):
            return reason
    return None


def compare(files: dict[str, Path], scratch: Path) -> dict[str, list[str]]:
    """Prepare the files and return what differs in each."""
    references = {name: Reference(path) for name, path in files.items()}
    codecs = sorted({codec for reference in references.values() for codec in reference.codecs})
    containers = collections.Counter(reference.container for reference in references.values())
    print(f"{len(codecs)} codecs: {', '.join(codecs)}")
    print(f"{len(containers)} containers: {', '.join(f'{name} {n}' for name, n in containers.most_common())}")
    outcomes: dict[str, list[str]] = {}
    for pictures in (True, False):
        names = [name for name in files if references[name].has_pictures == pictures]
        if not names:
            continue
        root = scratch / ("film" if pictures else "sound")
        ids = lay_out(root, [files[name] for name in names], with_video=pictures)
        out = root.with_name(f"{root.name}-prepared")
        prepare(root, out, PrepareConfig(max_skipped=1))
        prepared = decode_prepared(out)
        for name, key in zip(names, ids, strict=True):
            outcomes[name] = _differences(prepared[key], references[name].decode())
    return dict(sorted(outcomes.items()))


def _differences(ours: Film | str, theirs: Film | str) -> list[str]:
    """Return what differs between the prepared clip and ffmpeg's decoding; a text says why there is none."""
    if isinstance(ours, str) or isinstance(theirs, str):
        if isinstance(ours, str) and isinstance(theirs, str):
            return []  # nothing can be decoded
        texts = [side if isinstance(side, str) else "decodes" for side in (ours, theirs)]
        return [f"prepare: {texts[0]}, ffmpeg: {texts[1]}"]
    problems = []
    if len(ours.times) != len(theirs.times):
        problems.append(f"{len(ours.times)} pictures for {len(theirs.times)}")
    if len(ours.times) and len(theirs.times):
        problems += _compare_pictures(ours, theirs)
    if (ours.sound is None) != (theirs.sound is None):
        problems.append("sound in only one" if ours.sound is None else "sound only in the prepared clip")
    if ours.sound is not None and theirs.sound is not None:
        problems += _compare_sound(ours, theirs)
    return problems


def _compare_pictures(ours: Film, theirs: Film) -> list[str]:
    problems = []
    count = min(len(ours.times), len(theirs.times))
    off = np.abs(ours.times[:count] - theirs.times[:count])
    if off.max() > _TIME:
        problems.append(f"times {off.max() * 1e3:.1f} ms apart (median {np.median(off) * 1e3:.1f})")
    levels = np.abs(ours.pictures[:count].astype(float) - theirs.pictures[:count]).mean((1, 2, 3))
    if levels.max() > _PICTURE:
        problems.append(f"pictures {levels.max():.1f} levels apart (median {np.median(levels):.1f})")
    if abs(ours.aspect / theirs.aspect - 1) > _ASPECT:
        problems.append(f"aspect {ours.aspect:.3f} for {theirs.aspect:.3f}")
    return problems


def _compare_sound(ours: Film, theirs: Film) -> list[str]:
    assert ours.sound is not None
    assert theirs.sound is not None
    problems = []
    seconds = [len(sound) / RATE for sound in (ours.sound, theirs.sound)]
    if abs(seconds[0] - seconds[1]) > _LENGTH:
        problems.append(f"sound {seconds[0]:.3f} s for {seconds[1]:.3f}")
    a, b = (sound[: _LONGEST * RATE].astype(float) / 32_768 for sound in (ours.sound, theirs.sound))
    if min(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) < 1e-3:
        return problems  # silence
    size = 1 << (len(a) + len(b)).bit_length()
    # Low tones only: of high ones, half a sample is a large part of the period.
    low = np.fft.rfftfreq(size, 1 / RATE) < _LOW
    spectra = [np.fft.rfft(sound, size) * low for sound in (a, b)]
    product = np.fft.irfft(spectra[0] * spectra[1].conj())
    place = int(np.argmax(product))
    lag = (place - size if place > size // 2 else place) / RATE
    powers = [np.square(np.fft.irfft(spectrum)).sum() for spectrum in spectra]
    correlation = product[place] / np.sqrt(powers[0] * powers[1])
    if abs(lag) > _LAG:
        problems.append(f"sound {lag * 1e3:.1f} ms late")
    if correlation < _CORRELATION:
        problems.append(f"correlation of the sound {correlation:.3f}")
    return problems


if __name__ == "__main__":
    raise SystemExit(main())
