"""The client library against a small server that breaks on purpose."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.dial import close_code_of
from clients.errors import ConnectionLost, ServerRefused, StreamEnded
from clients.reconnect import Retry
from clients.stream import CaptionStream
from streaming.events import Done, Event, Final
from streaming.wire import Configure, ErrorNotice, Flush, Resume
from tests.clients.fake_server import WORD_BYTES, FakeServer, Fault, running

AT_ONCE = Retry(first_delay_ms=0, delay_ms_max=1)


def pcm(words: int) -> bytes:
    return bytes(index % 251 for index in range(words * WORD_BYTES))


def texts(audio: bytes) -> list[str]:
    starts = range(0, len(audio) - WORD_BYTES + 1, WORD_BYTES)
    return [audio[at : at + WORD_BYTES].hex() for at in starts]


def split(audio: bytes, sizes: Iterable[int]) -> list[bytes]:
    packets, at = [], 0
    for size in sizes:
        packets.append(audio[at : at + size])
        at += size
    return [*packets, audio[at:]]


async def caption(stream: CaptionStream, packets: Iterable[bytes]) -> list[Event]:
    """Send and read at the same time, as a live client does."""

    async def send() -> None:
        for packet in packets:
            await stream.send(packet)
        await stream.end()

    async with stream, asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        return [event async for event in stream]
    raise AssertionError("unreachable: the context manager swallows nothing")


async def collect(stream: CaptionStream, into: list[Event]) -> None:
    async for event in stream:
        into.append(event)  # noqa: PERF401 - what came before an error must be kept


def final_texts(events: Iterable[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Final)]


async def test_everything_comes_once_and_ends_with_done() -> None:
    async with running(FakeServer()) as server:
        audio = pcm(50)
        events = await caption(CaptionStream.open(server.url), split(audio, [7] * 30))
    assert final_texts(events) == texts(audio)
    assert isinstance(events[-1], Done)


@settings(max_examples=25, deadline=None)
@given(
    words=st.integers(1, 60),
    sizes=st.lists(st.integers(1, 40), max_size=60),
    cuts=st.lists(st.tuples(st.integers(1, 8), st.sampled_from([None, 1012, 1013, 1001, 4408]))),
    credit_frames=st.integers(8, 200),
)
def test_no_word_is_lost_or_doubled_whatever_breaks(
    words: int, sizes: list[int], cuts: list[tuple[int, int | None]], credit_frames: int
) -> None:
    async def scenario() -> tuple[FakeServer, list[Event]]:
        faults = [Fault(after, code) for after, code in cuts]
        async with running(FakeServer(faults, credit_frames)) as server:
            stream = CaptionStream.open(server.url, retry=AT_ONCE)
            return server, await caption(stream, split(audio, sizes))

    audio = pcm(words)
    server, events = asyncio.run(scenario())
    assert final_texts(events) == texts(audio)
    assert [event.seq for event in events if isinstance(event, Final)] == list(range(1, words + 1))
    assert server.frames_max_beyond_stored <= credit_frames


async def test_a_client_that_reads_only_after_sending_gets_all() -> None:
    server = FakeServer(credit_frames=100_000)
    async with running(server), CaptionStream.open(server.url) as stream:
        await stream.send(pcm(300))
        await stream.end()
        events = [event async for event in stream]
    assert final_texts(events) == texts(pcm(300))


async def test_end_is_repeated_after_a_resume() -> None:
    async with running(FakeServer(swallow_end=True)) as server:
        events = await caption(CaptionStream.open(server.url, retry=AT_ONCE), [pcm(3)])
    assert server.ends == 2
    assert isinstance(events[-1], Done)


async def test_a_resume_names_the_session_and_the_last_event() -> None:
    async with running(FakeServer([Fault(after_messages=1)])) as server:
        await caption(CaptionStream.open(server.url, retry=AT_ONCE), [pcm(2), pcm(2)])
    resume = server.greetings[-1]
    assert isinstance(resume, Resume)
    assert (resume.session_id, resume.resume_token) == ("s1", "t1")


@pytest.mark.parametrize(("path", "again"), [("", "?resume=1"), ("/at?a=b", "&resume=1")])
async def test_who_comes_back_says_so_in_the_address(path: str, again: str) -> None:
    async with running(FakeServer([Fault(after_messages=1)])) as server:
        opened = CaptionStream.open(f"{server.url}{path}", retry=AT_ONCE)
        await caption(opened, [pcm(2), pcm(2)])
    first = path or "/v1/stream"
    assert server.paths == [first, first + again]


async def test_events_that_a_dead_server_did_not_store_come_anew() -> None:
    server = FakeServer([Fault(after_messages=4)], store_is_broken=True)
    audio, events = pcm(5), []
    async with running(server), CaptionStream.open(server.url, retry=AT_ONCE) as stream:
        for at in range(0, 3 * WORD_BYTES, WORD_BYTES):
            await stream.send(audio[at : at + WORD_BYTES])
            events.append(await anext(aiter(stream)))
        await stream.send(audio[3 * WORD_BYTES : 4 * WORD_BYTES])
        await stream.send(audio[4 * WORD_BYTES :])
        await stream.end()
        await collect(stream, events)
    by_seq = {event.seq: event.text for event in events if isinstance(event, Final)}
    assert [*by_seq.values()] == texts(audio)
    assert final_texts(events)[:3] == texts(audio)[:3]
    assert final_texts(events)[-5:] == texts(audio)
    assert isinstance(events[-1], Done)


async def test_lost_events_that_nobody_has_taken_yet_are_not_yielded() -> None:
    server = FakeServer([Fault(after_messages=4)], store_is_broken=True)
    audio = pcm(5)
    events: list[Event] = []
    came: asyncio.Queue[str] = asyncio.Queue()
    async with running(server):
        stream = CaptionStream.open(server.url, retry=AT_ONCE, on_message=came.put_nowait)
        async with stream:
            for at in range(0, len(audio), WORD_BYTES):
                await stream.send(audio[at : at + WORD_BYTES])
                while '"final"' not in await came.get():
                    pass
            await stream.end()
            await collect(stream, events)
    assert final_texts(events) == texts(audio)
    assert stream.connections == 2


@pytest.mark.parametrize("code", ["bad_audio", "unauthorized", "unknown_session", "superseded"])
async def test_what_the_server_means_for_good_is_raised_with_its_words(code: str) -> None:
    notice = ErrorNotice(code, "do this instead")
    fault = Fault(1, close_code_of(code), notice)
    async with running(FakeServer([fault])) as server:
        stream = CaptionStream.open(server.url, retry=AT_ONCE)
        with pytest.raises(ExceptionGroup) as caught:
            await caption(stream, split(pcm(8), [8] * 7))
    refused = caught.value.exceptions[0]
    assert isinstance(refused, ServerRefused)
    assert (refused.code, refused.message) == (code, "do this instead")
    assert len(server.greetings) == 1


async def test_events_before_a_refusal_still_come() -> None:
    fault = Fault(1, 4400, ErrorNotice("bad_audio", "no"))
    got: list[Event] = []
    async with running(FakeServer([fault])) as server, CaptionStream.open(server.url) as stream:
        await stream.send(pcm(2))
        with pytest.raises(ServerRefused):
            await collect(stream, got)
    assert final_texts(got) == texts(pcm(2))


async def test_a_failing_engine_is_tried_a_few_times_only() -> None:
    fault = Fault(0, 4500, ErrorNotice("engine_failed", "the model gave up"))
    server = FakeServer([fault] * 50)
    async with running(server), CaptionStream.open(server.url, retry=AT_ONCE) as stream:
        with pytest.raises(ServerRefused, match="engine_failed"):
            await collect(stream, [])
    assert len(server.greetings) == 1 + AT_ONCE.few_tries_max


async def test_without_resume_a_cut_is_the_end() -> None:
    server = FakeServer([Fault(after_messages=1)])
    async with running(server), CaptionStream.open(server.url, resume=False) as stream:
        await stream.send(pcm(2))
        with pytest.raises(ConnectionLost):
            await collect(stream, [])
    assert len(server.greetings) == 1


async def test_no_server_is_a_lost_connection_that_names_the_address() -> None:
    async with running(FakeServer()) as server:
        url = server.url
    with pytest.raises(ConnectionLost, match=url):
        async with CaptionStream.open(url, retry=AT_ONCE):
            pass


async def test_an_address_that_is_none_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match=r"ws://127\.0\.0\.1:8710"):
        CaptionStream.open("127.0.0.1:8710")


async def test_audio_after_end_is_refused() -> None:
    async with running(FakeServer()) as server, CaptionStream.open(server.url) as stream:
        await stream.end()
        with pytest.raises(StreamEnded):
            await stream.send(b"\0\0")
        with pytest.raises(StreamEnded):
            await stream.flush()


async def test_controls_arrive_and_raw_messages_are_shown() -> None:
    raw: list[str] = []
    async with running(FakeServer()) as server:
        stream = CaptionStream.open(server.url, on_message=raw.append)
        async with stream:
            await stream.send(pcm(1))
            await stream.configure(Configure(language="en"))
            await stream.flush()
            await stream.end()
            events = [event async for event in stream]
        assert stream.ready.engines["asr"] == "fake"
    assert server.controls == [Configure(language="en"), Flush()]
    assert len(raw) == len(events) + 2  # ready and one ack


async def test_leaving_early_closes_the_connection() -> None:
    async with running(FakeServer()) as server:
        async with CaptionStream.open(server.url) as stream:
            await stream.send(pcm(1))
        with pytest.raises(ConnectionLost):
            await stream.send(pcm(1))
