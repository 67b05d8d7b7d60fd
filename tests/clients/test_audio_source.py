"""Files and pipes as packets."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clients.audio_source import (
    AudioSource,
    AudioSourceError,
    FileSource,
    MicrophoneSource,
    PipeSource,
    audio_format,
)

TONE = (np.arange(-1_000, 1_000).repeat(2) * 7).astype(np.int16)


async def heard(source: AudioSource, frames: int = 300) -> list[bytes]:
    return [packet async for packet in source.packets(frames)]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
async def test_a_file_comes_through_bit_exact_in_whole_packets(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, TONE, 8_000, subtype="PCM_16")
    source = FileSource(path)
    packets = await heard(source)
    assert b"".join(packets) == TONE.tobytes()
    assert {len(packet) for packet in packets[:-1]} == {600}
    assert (source.audio.encoding, source.audio.sample_rate) == ("pcm_s16le", 8_000)


async def test_channels_and_floats_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "float.wav"
    stereo = np.stack([TONE, TONE[::-1]], axis=1).astype(np.float32) / 32_768
    soundfile.write(path, stereo, 48_000, subtype="FLOAT")
    source = FileSource(path, ["Alice", None])
    assert b"".join(await heard(source)) == stereo.tobytes()
    assert source.audio.encoding == "pcm_f32le"
    assert source.audio.channel_names == ["Alice", None]


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
async def test_lossy_files_are_read_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.tile(TONE, 10), 16_000)
    frames = sum(map(len, await heard(FileSource(path)))) // 2
    assert frames == pytest.approx(len(TONE) * 10, abs=4_000)


def test_what_is_no_sound_file_says_what_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not audio")
    with pytest.raises(AudioSourceError, match="WAV, FLAC, OGG or MP3"):
        FileSource(path)
    with pytest.raises(AudioSourceError, match="no such file"):
        FileSource(tmp_path / "absent.wav")


async def test_a_damaged_file_is_given_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "noise.flac"
    noise = np.random.default_rng(1).integers(-9_000, 9_000, 160_000).astype(np.int16)
    soundfile.write(path, noise, 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    packets: list[bytes] = []

    async def read() -> None:
        async for packet in FileSource(path).packets(1_600):
            packets.append(packet)  # noqa: PERF401  a comprehension would lose them all

    with pytest.raises(AudioSourceError, match=r"damaged after [34]\.\d s .*before that was"):
        await read()
    given = b"".join(packets)
    assert given == noise.tobytes()[: len(given)]
    assert len(given) > 3 * 32_000


def test_names_must_fit_the_channels_and_rates_must_be_possible() -> None:
    with pytest.raises(AudioSourceError, match="2 channel names for 1 channels"):
        audio_format("pcm_s16le", 16_000, 1, ["a", "b"])
    with pytest.raises(AudioSourceError, match="sample_rate"):
        audio_format("pcm_s16le", 0, 1, None)


async def test_a_stopped_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, TONE, 8_000)
    source = FileSource(path)
    packets = []
    async for packet in source.packets(300):
        packets.append(packet)
        source.stop()
    assert len(packets) == 1


async def test_a_pipe_is_read_to_its_end() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, TONE.tobytes())
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        source = PipeSource(audio_format("pcm_s16le", 16_000, 1, None), pipe)
        packets = await heard(source)
    assert b"".join(packets) == TONE.tobytes()


async def test_a_waiting_pipe_can_be_stopped() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe, os.fdopen(write_end, "wb"):
        source = PipeSource(audio_format("pcm_s16le", 16_000, 1, None), pipe)
        source.stop()
        assert await heard(source) == []


async def test_a_redirected_file_is_read_as_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "raw.pcm"
    path.write_bytes(TONE.tobytes())
    with path.open("rb") as pipe:
        source = PipeSource(audio_format("pcm_s16le", 16_000, 1, None), pipe)
        assert b"".join(await heard(source)) == TONE.tobytes()


def test_a_missing_microphone_library_names_both_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioSourceError, match=r"captiond\[mic\].*libportaudio2"):
        MicrophoneSource(audio_format("pcm_s16le", 16_000, 1, None))


class FakeDevice:
    """A device that speaks three blocks when it is started."""

    def __init__(self, *, callback: object, blocksize: int, **_: object) -> None:
        self._callback = callback
        self._blocksize = blocksize
        self.is_closed = False

    def start(self) -> None:
        assert callable(self._callback)
        for value in (1, 2, 3):
            block = np.full(self._blocksize, value, np.int16).tobytes()
            self._callback(block, self._blocksize, None, None)

    def close(self) -> None:
        self.is_closed = True


async def test_the_microphone_is_heard_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.SimpleNamespace(RawInputStream=FakeDevice, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    source = MicrophoneSource(audio_format("pcm_s16le", 16_000, 1, None))
    packets = []
    async for packet in source.packets(100):
        packets.append(packet[0])
        if len(packets) == 3:
            source.stop()
    assert packets == [1, 2, 3]
    assert source.dropped_packets == 0
