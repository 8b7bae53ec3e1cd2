"""Equal sources become equal bytes: in every run, and on every processor."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from xkd.data.media.transcode import transcode

_WITHOUT_SIMD = """
import ctypes, sys
from pathlib import Path
import av
from tests.data.test_determinism import digest
(path,) = {line.split()[-1] for line in open("/proc/self/maps") if "libavutil" in line}
ctypes.CDLL(path).av_force_cpu_flags(0)
print(digest(Path(sys.argv[1]).read_bytes(), 48))
"""


def digest(content: bytes, short_side: int) -> str:
    found = transcode(
        io.BytesIO(content), with_video=True, short_side=short_side, max_fps=None, sample_rate=16000
    )
    return hashlib.sha256(found.video or b"").hexdigest()


@pytest.fixture(scope="module")
def clip() -> bytes:
    """Noisy, moving pictures, which make x264 choose between quantizers."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    scene = rng.integers(0, 256, (17, 22, 3)).repeat(8, 0).repeat(8, 1)
    with av.open(buffer, "w", format="matroska") as file:
        video = file.add_stream("ffv1", rate=25, width=160, height=120, pix_fmt="yuv420p")
        for number in range(40):
            moved = np.roll(scene, (number, 2 * number), (0, 1))[:120, :160]
            noisy = np.clip(moved + rng.integers(-6, 7, moved.shape), 0, 255).astype(np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(noisy, "rgb24")))
        file.mux(video.encode(None))
    return buffer.getvalue()


@pytest.mark.system
@pytest.mark.parametrize("short_side", [16, 32, 48, 64])
def test_a_clip_becomes_the_same_bytes_whatever_the_memory_holds(clip: bytes, short_side: int) -> None:
    rng, digests = np.random.default_rng(1), set()
    for _ in range(16):
        for _ in range(rng.integers(30)):
            buffers = [bytearray(rng.bytes(int(rng.integers(64, 150_000)))) for _ in range(3)]
            del buffers
        digests.add(digest(clip, short_side))
    assert len(digests) == 1


def test_scaled_pictures_do_not_depend_on_the_processor(clip: bytes, tmp_path: Path) -> None:
    source = tmp_path / "clip.mkv"
    source.write_bytes(clip)
    command = [sys.executable, "-c", _WITHOUT_SIMD, str(source)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip() == digest(clip, 48)
