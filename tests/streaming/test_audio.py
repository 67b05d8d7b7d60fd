"""PcmDecoder: encodings, packet splits, restart points, skips."""

import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.audio import PcmDecoder
from streaming.engines import Samples
from streaming.errors import BadAudio
from streaming.wire import Encoding

RATES = [4_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


def noise(frames: int, channels: int = 1, seed: int = 0) -> Samples:
    """Uniform noise at nine tenths of full scale, shape (frames, channels)."""
    rng = np.random.default_rng(seed)
    return rng.integers(-29_000, 29_000, (frames, channels)).astype(np.int16)


def joined(parts: list[list[Samples]]) -> Samples:
    """Shape (channels, samples)."""
    assert all(len({channel.size for channel in part}) == 1 for part in parts)
    return np.concatenate([np.stack(part) for part in parts], axis=1)


def decoded(decoder: PcmDecoder, *packets: bytes) -> Samples:
    return joined([*(decoder.decode(packet) for packet in packets), decoder.finish()])


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@given(
    rate=st.sampled_from(RATES),
    channels=st.integers(1, 3),
    ms=st.integers(0, 150),
    cuts=st.lists(st.integers(0, 60_000), max_size=12),
)
@settings(deadline=None, max_examples=60)
def test_the_samples_do_not_depend_on_the_packets(
    rate: int, channels: int, ms: int, cuts: list[int]
) -> None:
    data = noise(rate * ms // 1000, channels).tobytes()
    whole = decoded(PcmDecoder("pcm_s16le", rate, channels), data)
    parts = decoded(PcmDecoder("pcm_s16le", rate, channels), *split(data, cuts))
    np.testing.assert_array_equal(parts, whole)


def test_a_byte_at_a_time_is_no_different() -> None:
    data = noise(700, 2).tobytes()
    whole = decoded(PcmDecoder("pcm_s16le", 44_100, 2), data)
    bytewise = decoded(
        PcmDecoder("pcm_s16le", 44_100, 2), *(data[i : i + 1] for i in range(len(data)))
    )
    np.testing.assert_array_equal(bytewise, whole)


@given(rate=st.sampled_from([*RATES, 5_003]), frames=st.integers(0, 9_000))
@settings(deadline=None, max_examples=40)
def test_n_frames_make_the_samples_that_start_before_their_end(rate: int, frames: int) -> None:
    decoder = PcmDecoder("pcm_s16le", rate, 1)
    samples = decoded(decoder, noise(frames).tobytes())
    assert samples.shape == (1, -(-frames * 16_000 // rate))
    assert decoder.samples_produced == samples.shape[1]
    assert decoder.frames_received == frames


@pytest.mark.parametrize("rate", [r for r in RATES if r != 16_000])
def test_blocks_join_as_if_resampled_in_one_shot(rate: int) -> None:
    audio = noise(rate)
    # A second of silence on both sides: soxr's own start is off by up to 3 % at 11,025 Hz.
    padded = np.pad(audio[:, 0].astype(np.float64), rate)
    expected = soxr.resample(padded, rate, 16_000, "HQ")[16_000:32_000]
    samples = decoded(PcmDecoder("pcm_s16le", rate, 1), audio.tobytes())[0]
    # Full-scale noise overshoots near the ends of the band: the decoder clips it.
    assert np.abs(samples - np.clip(np.rint(expected), -32_768, 32_767)).max() <= 1


def test_channels_are_told_apart_and_do_not_touch() -> None:
    audio = noise(4_800, 3)
    together = decoded(PcmDecoder("pcm_s16le", 48_000, 3), audio.tobytes())
    for channel in range(3):
        alone = decoded(PcmDecoder("pcm_s16le", 48_000, 1), audio[:, channel].tobytes())[0]
        np.testing.assert_array_equal(together[channel], alone)


def test_16_khz_passes_untouched_and_at_once() -> None:
    audio = noise(1_000, 2)
    left, right = PcmDecoder("pcm_s16le", 16_000, 2).decode(audio.tobytes())
    np.testing.assert_array_equal(left, audio[:, 0])
    np.testing.assert_array_equal(right, audio[:, 1])


@pytest.mark.parametrize(("rate", "latency_ms"), [(8_000, 36), (11_025, 52), (48_000, 28)])
def test_a_block_comes_out_once_its_right_context_is_there(rate: int, latency_ms: int) -> None:
    decoder = PcmDecoder("pcm_s16le", rate, 1)
    frames = rate * latency_ms // 1000
    assert decoder.decode(noise(frames - rate // 500).tobytes())[0].size == 0
    assert decoder.decode(noise(rate // 250).tobytes())[0].size > 0


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_every_companded_code_is_what_libsndfile_says(encoding: Encoding, subtype: str) -> None:
    codes = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(codes),
        dtype="int16",
        format="RAW",
        subtype=subtype,
        samplerate=16_000,
        channels=1,
    )
    np.testing.assert_array_equal(PcmDecoder(encoding, 16_000, 1).decode(codes)[0], expected)


def test_floats_are_scaled_rounded_and_clipped() -> None:
    values = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 7.0, -3e38, 0.6 / 32_768], "<f4")
    samples = PcmDecoder("pcm_f32le", 16_000, 1).decode(values.tobytes())[0]
    assert samples.tolist() == [0, 16_384, -16_384, 32_767, -32_768, 32_767, -32_768, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_float_that_is_no_number_is_refused_with_its_frame(bad: float) -> None:
    decoder = PcmDecoder("pcm_f32le", 16_000, 2)
    decoder.decode(np.zeros(20, "<f4").tobytes())
    values = np.zeros(20, "<f4")
    values[7] = bad
    with pytest.raises(BadAudio, match="frame 13 "):
        decoder.decode(values.tobytes())
    assert decoder.frames_received == 10
    assert decoder.decode(np.zeros(2, "<f4").tobytes())[0].size == 1


def test_a_partial_frame_waits_is_reported_and_can_be_dropped() -> None:
    decoder = PcmDecoder("pcm_s16le", 16_000, 2)
    assert decoder.decode(b"\1\0\2\0\3")[0].tolist() == [1]
    assert decoder.dangling_bytes == 1
    decoder.drop_partial_frame()
    assert decoder.dangling_bytes == 0
    assert decoder.decode(b"\3\0\4\0")[1].tolist() == [4]
    assert decoder.frames_received == 2


def test_finish_drops_a_partial_frame_and_says_so() -> None:
    decoder = PcmDecoder("pcm_s16le", 48_000, 1)
    decoder.decode(noise(100).tobytes() + b"\7")
    assert decoder.finish()[0].size == 34
    assert decoder.dangling_bytes == 1
    assert decoder.finish()[0].size == 0
    decoder.drop_partial_frame()
    assert decoder.dangling_bytes == 0


@given(
    rate=st.sampled_from(RATES),
    ms=st.integers(1, 400),
    share=st.floats(0, 1),
)
@settings(deadline=None, max_examples=80)
def test_a_restarted_decoder_repeats_every_later_sample(rate: int, ms: int, share: float) -> None:
    audio = noise(rate * ms // 1000)
    first = PcmDecoder("pcm_s16le", rate, 1)
    expected = decoded(first, audio.tobytes())[0]
    sample = int(share * (expected.size - 1))
    frame = PcmDecoder("pcm_s16le", rate, 1).restart_frame(sample)
    again = PcmDecoder("pcm_s16le", rate, 1, start_frame=frame)
    start = again.samples_produced
    assert start <= sample
    repeated = decoded(again, audio[frame:].tobytes())[0]
    np.testing.assert_array_equal(repeated[sample - start :], expected[sample:])


def test_a_restart_reaches_back_a_block_and_its_context_at_most() -> None:
    decoder = PcmDecoder("pcm_s16le", 48_000, 1)
    assert decoder.restart_frame(0) == 0
    for sample in range(400, 3_000, 37):
        assert 0 < sample * 3 - decoder.restart_frame(sample) <= 960 + 384


def with_skip(
    rate: int, before: Samples, skipped: int, after: Samples
) -> tuple[PcmDecoder, list[Samples]]:
    decoder = PcmDecoder("pcm_s16le", rate, 1)
    head = joined([decoder.decode(before.tobytes()), decoder.skip(skipped)])[0]
    return decoder, [head, decoded(decoder, after.tobytes())[0]]


@given(
    rate=st.sampled_from(RATES),
    before=st.integers(0, 3_000),
    skipped=st.integers(1, 100_000),
    after=st.integers(1, 3_000),
)
@settings(deadline=None, max_examples=60)
def test_a_skip_moves_the_clock_and_joins_nothing(
    rate: int, before: int, skipped: int, after: int
) -> None:
    decoder, (head, tail) = with_skip(rate, noise(before), skipped, noise(after, seed=1))
    alone = decoded(PcmDecoder("pcm_s16le", rate, 1), noise(before).tobytes())[0]
    np.testing.assert_array_equal(head, alone)
    assert decoder.frames_received == before + skipped + after
    first = -(-(before + skipped) * 16_000 // rate)
    assert tail.size == -(-decoder.frames_received * 16_000 // rate) - first
    assert decoder.samples_produced == first + tail.size


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_restart_after_a_skip_begins_at_its_end_at_the_earliest(rate: int) -> None:
    before, skipped, after = noise(rate // 5), rate // 2, noise(rate // 5, seed=1)
    decoder, (_, tail) = with_skip(rate, before, skipped, after)
    resumed_at = rate // 5 + rate // 2
    fresh = PcmDecoder("pcm_s16le", rate, 1)
    fresh.decode(before.tobytes())
    fresh.skip(skipped)
    assert fresh.restart_frame(resumed_at * 16_000 // rate + 5) >= resumed_at
    assert fresh.restart_frame(100) < rate // 5
    again = PcmDecoder("pcm_s16le", rate, 1, start_frame=resumed_at)
    np.testing.assert_array_equal(decoded(again, after.tobytes())[0], tail)
    assert again.samples_produced == decoder.samples_produced


def test_a_skip_inside_a_frame_is_refused() -> None:
    decoder = PcmDecoder("pcm_s16le", 16_000, 1)
    decoder.decode(b"\1")
    with pytest.raises(BadAudio, match="whole frames"):
        decoder.skip(16)


@pytest.mark.parametrize(("rate", "channels"), [(0, 1), (10**9, 1), (16_000, 0), (16_000, 21)])
def test_a_format_that_the_wire_forbids_is_a_bug(rate: int, channels: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        PcmDecoder("pcm_s16le", rate, channels)


@given(rate=st.sampled_from(RATES), first_ms=st.integers(0, 90), second_ms=st.integers(0, 90))
@settings(deadline=None, max_examples=40)
def test_a_flush_gives_all_that_was_held_and_starts_anew(
    rate: int, first_ms: int, second_ms: int
) -> None:
    first, second = noise(rate * first_ms // 1000), noise(rate * second_ms // 1000, seed=1)
    decoder = PcmDecoder("pcm_s16le", rate, 1)
    before = joined([decoder.decode(first.tobytes()), decoder.flush()])
    assert not decoder.has_tail
    after = decoded(decoder, second.tobytes())
    alone = decoded(PcmDecoder("pcm_s16le", rate, 1), first.tobytes())
    anew = decoded(PcmDecoder("pcm_s16le", rate, 1, start_frame=len(first)), second.tobytes())
    np.testing.assert_array_equal(before, alone)
    np.testing.assert_array_equal(after, anew)


def test_a_flush_keeps_half_a_frame() -> None:
    decoder = PcmDecoder("pcm_s16le", 48_000, 1)
    decoder.decode(b"\x01")
    decoder.flush()
    assert decoder.dangling_bytes == 1


def test_the_newest_stretches_are_remembered() -> None:
    """A restart never lies in skipped time, however often there was some."""
    decoder = PcmDecoder("pcm_s16le", 48_000, 1)
    for _ in range(5_000):
        decoder.decode(bytes(2 * 4_800))
        decoder.skip(48_000)
    last = decoder.frames_received
    decoder.decode(bytes(2 * 4_800))
    assert decoder.restart_frame(decoder.samples_produced) >= last
    before = (last - 48_000) // 3
    assert decoder.restart_frame(before) >= last - 48_000 - 4_800
