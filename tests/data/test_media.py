from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.data.samples import FPS, RATE, decode, frame_numbers, ramp, write_video
from xkd.config import ClipConfig
from xkd.data.media.damage import MediaError
from xkd.data.media.prepared import WAV_HEADER, encode_wav, read_video, to_waveform
from xkd.data.media.transcode import transcode
from xkd.data.transforms.logmel import LogMel

MEAN, STD = -5.3688107, 4.410007


def transcode_video(path: Path, short_side: int, max_fps: float | None) -> tuple[bytes, float]:
    found = transcode(path, with_video=True, short_side=short_side, max_fps=max_fps, sample_rate=RATE)
    assert found.video is not None
    return found.video, found.seconds


def read_audio(path: Path) -> NDArray[np.int16]:
    found = transcode(path, with_video=False, short_side=32, max_fps=None, sample_rate=RATE)
    assert found.audio is not None
    return found.audio


def log_mel(waveform: torch.Tensor) -> torch.Tensor:
    spectrogram: torch.Tensor = LogMel(ClipConfig(), 80)(waveform)
    return spectrogram


def test_bands_equal_the_authors(recorded: dict[str, Any]) -> None:
    torch.testing.assert_close(
        LogMel(ClipConfig(), 80).bands.T, recorded["audio/mel_filterbank"], atol=1e-6, rtol=0
    )


def test_log_mel_equals_the_authors(recorded: dict[str, Any]) -> None:
    ours = log_mel(recorded["audio/wav"][None])[0]
    torch.testing.assert_close(ours, recorded["audio/spec_global"], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours * STD + MEAN, recorded["audio/logmel_global"], atol=1e-4, rtol=0)


def test_the_log_mel_of_silence_equals_the_authors(recorded: dict[str, Any]) -> None:
    silence = log_mel(torch.zeros(2, 64000))
    torch.testing.assert_close(
        silence[1], recorded["audio/spec_silence"].expand_as(silence[1]), atol=1e-5, rtol=0
    )


def test_log_mel_lengths_and_batches() -> None:
    waveform = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    together = log_mel(waveform)
    assert together.shape == (3, 1, 80, 112)
    assert all(torch.equal(log_mel(one[None])[0], row) for one, row in zip(waveform, together, strict=True))


def test_short_sound_is_padded(recorded: dict[str, Any]) -> None:
    end = int(recorded["audio/short_padded"])
    short = recorded["audio/wav"][:end]
    samples = (short * 32767).round().to(torch.int16).numpy()
    ours = to_waveform(samples.astype("<i2").tobytes(), 64000)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[:end], short.numpy(), atol=1 / 32767)
    assert not ours[end:].any()


def test_the_wav_header_describes_the_samples() -> None:
    data = encode_wav(ramp(0.1), RATE)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
    assert len(data) == WAV_HEADER + 2 * 1600
    assert np.array_equal(np.frombuffer(data[WAV_HEADER:], "<i2"), ramp(0.1))


def test_transcoded_frames_keep_their_times(tmp_path: Path) -> None:
    data, seconds = transcode_video(write_video(tmp_path / "a.mkv"), short_side=32, max_fps=None)
    assert seconds == pytest.approx(5.0, abs=1e-3)
    for number, (time, picture) in enumerate(decode(data)):
        assert time == pytest.approx(number / FPS, abs=1e-3)
        assert frame_numbers(picture[None]) == [number]


def test_frame_rate_is_capped_by_leaving_frames_out(tmp_path: Path) -> None:
    data, seconds = transcode_video(write_video(tmp_path / "a.mkv"), short_side=32, max_fps=8)
    assert seconds == pytest.approx(5.0, abs=1e-3)
    numbers = [frame_numbers(picture[None])[0] for _, picture in decode(data)]
    assert numbers == list(range(0, 80, 2))


@pytest.mark.parametrize(
    ("source", "expected"),
    [((60, 40), (30, 20)), ((80, 120), (20, 30)), ((51, 33), (30, 20)), ((14, 10), (14, 10))],
)
def test_the_short_side_is_limited(
    tmp_path: Path, source: tuple[int, int], expected: tuple[int, int]
) -> None:
    path = write_video(tmp_path / "a.mkv", size=source, seconds=0.5, audio=False)
    data, _ = transcode_video(path, short_side=20, max_fps=None)
    assert decode(data)[0][1].shape == (*expected[::-1], 3)


@pytest.mark.parametrize("width", [16, 24, 44, 48, 72])
def test_frames_of_small_widths_are_encoded(tmp_path: Path, width: int) -> None:
    path = write_video(tmp_path / "a.mkv", size=(width, 80), seconds=0.5, audio=False)
    data, _ = transcode_video(path, short_side=80, max_fps=None)
    frames = read_video(data, np.array([0.01, 0.3]))
    assert frames.shape == (2, 80, width, 3)
    assert frame_numbers(frames) == [0, 4]


@pytest.mark.system
@pytest.mark.parametrize("max_fps", [None, 8])
def test_frames_are_those_of_another_decoder(
    miniature: Callable[[str], Path], tmp_path: Path, max_fps: float | None
) -> None:
    """decord, by its own timestamps, shows the very same pictures."""
    decord = pytest.importorskip("decord")
    source = next((miniature("kinetics400-mini") / "train").rglob("*.mp4"))
    data, seconds = transcode_video(source, 64, max_fps)
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    times = np.random.default_rng(0).uniform(0, seconds, 40)
    shown = np.searchsorted(starts, times, side="right") - 1
    assert np.array_equal(read_video(data, times), reader.get_batch(shown).asnumpy())


def test_keyframes_are_close(tmp_path: Path) -> None:
    data, _ = transcode_video(write_video(tmp_path / "a.mkv"), short_side=32, max_fps=8)
    with av.open(io.BytesIO(data), "r") as file:
        keys = [frame.time or 0.0 for frame in file.decode(video=0) if frame.key_frame]
    assert np.diff(keys).max() <= 0.5 + 1e-6


def test_read_by_timestamps_of_a_variable_frame_rate(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 1.0, 1.05, 2.5]
    data, _ = transcode_video(write_video(tmp_path / "a.mkv", times=times, audio=False), 32, None)
    requested = np.array([-1.0, 0.0, 0.15, 0.99, 1.0, 1.06, 2.49, 2.5, 9.0])
    assert frame_numbers(read_video(data, requested)) == [0, 0, 1, 2, 3, 4, 4, 5, 5]


def test_a_window_may_start_anywhere(tmp_path: Path) -> None:
    data, _ = transcode_video(write_video(tmp_path / "a.mkv"), 32, None)
    for start in (0.0, 0.3, 0.51, 0.97):
        requested = start + np.arange(32) / 8
        expected = np.floor(requested * FPS + 1e-6)
        assert frame_numbers(read_video(data, requested)) == expected.tolist()


def test_times_may_be_in_any_order_and_far_apart(tmp_path: Path) -> None:
    data, _ = transcode_video(write_video(tmp_path / "a.mkv", seconds=15.0), 32, None)
    for requested in ([14.0, 0.0, 7.3, 7.3, 14.9], [0.0, 0.1, 5.0, 12.5], np.linspace(0, 14, 97)[::-1]):
        times = np.asarray(requested) + 0.001  # the source keeps whole milliseconds
        assert frame_numbers(read_video(data, times)) == np.floor(times * FPS + 1e-6).tolist()


def test_frames_that_are_never_shown_are_not_decoded(tmp_path: Path) -> None:
    data, _ = transcode_video(write_video(tmp_path / "a.mkv", seconds=2.0), 48, None)
    with av.open(io.BytesIO(data)) as file:
        entry = file.streams.video[0].index_entries[5]  # the second keyframe is number 8
    damaged = data[: entry.pos] + b"\xff" * entry.size + data[entry.pos + entry.size :]
    times = np.array([0.0, 0.25, 0.5, 0.75])
    assert frame_numbers(read_video(damaged, times)) == [0, 4, 8, 12]
    with pytest.raises(MediaError):
        read_video(damaged, np.array([0.0, 0.375]))


def test_frames_before_the_start_are_dropped(tmp_path: Path) -> None:
    """A trimmed mp4 keeps pre-roll frames with negative times."""
    times = [i / FPS - 0.25 for i in range(32)]
    data, _ = transcode_video(write_video(tmp_path / "a.mp4", times=times, audio=False), 32, None)
    found = decode(data)
    assert found[0][0] == 0.0
    assert len(found) in (28, 32)  # the muxer either keeps the negative times or shifts them to 0


def test_sound_is_mono_and_resampled(tmp_path: Path) -> None:
    tone = (np.sin(np.arange(44100) / 44100 * 2 * np.pi * 440) * 8000).astype(np.int16)
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(np.stack([tone, tone], 1).tobytes())
    samples = read_audio(path)
    assert abs(len(samples) - RATE) <= 16
    middle = samples[4000:12000]
    expected = np.sin(np.arange(4000, 12000) / RATE * 2 * np.pi * 440) * 8000
    assert np.abs(middle - expected).max() < 80


def test_sound_starts_with_the_file(tmp_path: Path) -> None:
    samples = read_audio(write_video(tmp_path / "a.mkv"))
    assert np.array_equal(samples, ramp(5.0))


def test_coded_sound_stays_aligned(tmp_path: Path) -> None:
    """AAC has a priming delay that must not shift the sound."""
    samples = read_audio(write_video(tmp_path / "a.mp4"))
    assert np.abs(samples[2000:70000] - ramp(5.0)[2000:70000]).mean() < 0.01 * 5000


def test_a_file_without_an_audio_stream_has_no_sound(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", audio=False)
    found = transcode(path, with_video=True, short_side=32, max_fps=None, sample_rate=RATE)
    assert found.audio is None
    with pytest.raises(MediaError, match="no audio stream"):
        read_audio(path)


@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated"])
def test_damaged_files_are_errors(tmp_path: Path, damage: str) -> None:
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    path = tmp_path / "b.mp4"
    path.write_bytes({"garbage": bytes(range(256)) * 40, "empty": b"", "truncated": whole[:400]}[damage])
    for read in (lambda: transcode_video(path, 32, None), lambda: read_audio(path)):
        with pytest.raises(MediaError) as caught:
            read()
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError):
        read_video(path.read_bytes(), np.zeros(1))


def test_a_file_without_a_video_stream_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encode_wav(ramp(1.0), RATE))
    with pytest.raises(MediaError, match="no video stream"):
        transcode_video(path, 32, None)
