"""Traces of utterances: what is watched, what is forgotten, and the spans that come of it."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.child import running_server
from server.config import ConfigError
from server.engines.parts import engine_parts_ns, spent_between
from server.engines.whisper_counters import Counters
from server.telemetry import Metrics
from server.traces import Traces, traces_to
from server.tracing import OPEN_MAX, Part, Utterance, UtteranceTracer
from server.tracing_export import SESSION_SPAN, UTTERANCE_SPAN, SpanExport
from server.worker_frames import HEADER, Answer, Question, pack, unpack
from server.worker_main import _answer
from streaming.engines import SpeechWindow
from streaming.events import Final, SessionStage
from streaming.jobs import Job, JobKind
from streaming.timeline import SAMPLE_RATE_HZ, Span
from tests.server.test_silero import CLIP
from tests.server_fakes import Front, running
from tests.system.talker import Talker, clip, texts

MS = 1_000_000
PARTS = ["queue", "recognize", "attribute", "store", "send"]


@dataclass
class Watch:
    """A tracer on a clock that a test moves."""

    now_ns: int = 1_000 * MS
    told: list[tuple[Utterance, int]] = field(default_factory=list)
    tracer: UtteranceTracer = field(init=False)

    def __post_init__(self) -> None:
        self.tracer = UtteranceTracer(
            lambda utterance, sent_ns: self.told.append((utterance, sent_ns)), lambda: self.now_ns
        )

    def later(self, ms: int) -> None:
        self.now_ns += ms * MS


def job(number: int = 1, *, is_final: bool = True, kind: JobKind = JobKind.RECOGNIZE) -> Job:
    window = SpeechWindow(np.zeros(16_000, np.int16), is_final=is_final)
    return Job("s", number, 0, kind, (window,), 16_000, is_final, 0)


def final(seq: int = 1) -> Final:
    return Final(seq, f"c{seq}", 0, Span(0, 16_000), "secret words", "en", None, None, ())


def test_only_finals_of_words_are_watched() -> None:
    watch = Watch()
    watch.tracer.asked([job(1, is_final=False), job(2, kind=JobKind.OBSERVE)])
    assert not watch.tracer._asked
    watch.tracer.asked([job(3)])
    assert len(watch.tracer._asked) == 1


def test_what_never_comes_back_is_forgotten_at_the_bound() -> None:
    watch = Watch()
    for number in range(OPEN_MAX + 3):
        watch.tracer.asked([job(number)])
    assert len(watch.tracer._asked) == len(watch.tracer._by_question) == OPEN_MAX
    assert watch.tracer.given_up == 3


def test_a_session_that_is_gone_leaves_nothing() -> None:
    watch = Watch()
    watch.tracer.asked([job(1), job(2)])
    watch.tracer._note_final(Utterance("s", 0, 16_000, 0), final(), Part("attribute", 0, 1))
    watch.tracer.forget("s")
    assert not watch.tracer._asked
    assert not watch.tracer._by_question
    assert not watch.tracer._captions


def test_the_trail_is_what_was_done_in_order() -> None:
    utterance = Utterance("s", 0, 16_000, asked_ns=0, called_ns=10 * MS, answered_ns=60 * MS)
    utterance.engine_parts = (("encode", 30 * MS), ("decode", 15 * MS))
    utterance.attributed = Part("attribute", 60 * MS, 61 * MS)
    utterance.stored = Part("store", 61 * MS, 65 * MS)
    trail = utterance.trail(sent_ns=66 * MS)
    assert [part.name for part in trail] == PARTS
    assert [(part.start_ns, part.end_ns) for part in trail] == [
        (0, 10 * MS), (10 * MS, 60 * MS), (60 * MS, 61 * MS), (61 * MS, 65 * MS), (65 * MS, 66 * MS)
    ]  # fmt: skip
    assert trail[1].parts == (
        Part("encode", 10 * MS, 40 * MS),
        Part("decode", 40 * MS, 55 * MS),
    )


def test_a_final_that_was_never_stored_was_sent_all_the_same() -> None:
    utterance = Utterance("s", 0, 16_000, asked_ns=0)
    assert [part.name for part in utterance.trail(5 * MS)] == ["send"]


def test_a_call_is_told_with_the_engines_own_account() -> None:
    watch = Watch()
    asked = job()
    watch.tracer.asked([asked])
    watch.later(5)
    with watch.tracer.calling(list(asked.questions)) as tell:
        watch.later(40)
        tell({"encode": 30 * MS})
    (_, utterance), *_ = watch.tracer._asked.values()
    assert utterance.called_ns == utterance.asked_ns + 5 * MS
    assert utterance.answered_ns == utterance.asked_ns + 45 * MS
    assert utterance.engine_parts == (("encode", 30 * MS),)


def test_an_engine_without_an_account_has_no_parts() -> None:
    assert engine_parts_ns(object()) == ()
    assert spent_between((), ()) == ()


def test_an_engines_seconds_become_parts_of_a_call() -> None:
    class Recognizer:
        counters = Counters(features_s=0.5, encoder_s=1.0, verify_s=0.25, step_s=0.25, words_s=0.1)

    before = engine_parts_ns(Recognizer())
    assert before == (("encode", 1_500 * MS), ("decode", 500 * MS), ("words", 100 * MS))
    Recognizer.counters = Counters(
        features_s=0.5, encoder_s=1.2, verify_s=0.3, step_s=0.3, words_s=0.1
    )
    assert spent_between(before, engine_parts_ns(Recognizer())) == (
        ("encode", 200 * MS), ("decode", 100 * MS), ("words", 0)
    )  # fmt: skip


# On a whole server, with engines in processes of their own


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()

    def traces(url: str, metrics: Metrics) -> Traces:
        assert url == "http://collector:4318/v1/traces"
        return Traces(SpanExport(SimpleSpanProcessor(exporter)), metrics)

    monkeypatch.setattr("server.app.traces_to", traces)
    yield exporter
    exporter.shutdown()


@asynccontextmanager
async def traced(folder: Path, **options: Any) -> AsyncIterator[Front]:
    url = "http://collector:4318/v1/traces"
    async with running(folder, tracing_url=url, **options) as front:
        yield front


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


@pytest.mark.slow
async def test_every_final_is_a_trace_of_its_parts(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async with traced(tmp_path) as front:
        talker = await Talker.start(front.url)
        await talker.play(clip(1, 15))
        assert await talker.finish() == texts(1, 15)
        finals = [m for m in talker.messages if m["type"] == "final"]
        tracer = front.server._traces.tracer if front.server._traces else None
        assert tracer is not None
    utterances = named(spans, UTTERANCE_SPAN)
    assert [u.attributes and u.attributes["captiond.seq"] for u in utterances] == [
        m["seq"] for m in finals
    ]
    (session,) = named(spans, SESSION_SPAN)
    assert seconds(session) == 0, "a session is no span"
    for utterance in utterances:
        children = [
            span
            for span in spans.get_finished_spans()
            if span.parent and span.parent.span_id == utterance.context.span_id
        ]
        assert [child.name for child in children] == PARTS
        assert all(0 <= seconds(child) <= seconds(utterance) + 1e-6 for child in children)
        assert [link.context for link in utterance.links] == [session.context]
    assert not tracer._asked
    assert not tracer._captions
    everything = " ".join(span.to_json() for span in spans.get_finished_spans())
    assert not [word for word in texts(1, 15) if word in everything], "never text"
    assert finals[0]["text"] not in everything


@pytest.mark.slow
def test_whisper_says_what_it_spends_a_call_on() -> None:
    from server.engines.whisper import WhisperRecognizer
    from server.engines.whisper_options import WhisperOptions
    from server.evaluation.whisper_models import trained_checkpoint

    engine = WhisperRecognizer(trained_checkpoint(threads=1), WhisperOptions(dtype="float32"))
    samples, _ = soundfile.read(CLIP, dtype="int16", frames=3 * SAMPLE_RATE_HZ)
    asked = Question("recognize", [SpeechWindow(samples)])
    for _ in range(2):
        sent = b"".join(pack(_answer(engine, SessionStage.RECOGNITION, asked)))
        answer = unpack(bytearray(sent[HEADER.size :]))
        assert isinstance(answer, Answer)
        spent = dict(answer.parts_ns)
        assert list(spent) == ["encode", "decode", "words"]
        assert spent["encode"] > 0
        assert spent["decode"] > 0
        assert sum(spent.values()) <= answer.elapsed_ns


def test_without_the_extra_a_start_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "server.tracing_export", None)
    with pytest.raises(ConfigError, match=r"pip install 'captiond\[tracing\]'"):
        traces_to("http://127.0.0.1:4318/v1/traces", Metrics("1"))


class Collector:
    """What an OpenTelemetry collector would take."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.bodies = b""

    async def take(self, request: web.Request) -> web.Response:
        self.bodies += await request.read()
        told = ExportTraceServiceRequest.FromString(await request.read())
        for resource in told.resource_spans:
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]
        return web.Response(body=b"", content_type="application/x-protobuf")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/traces", self.take)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            (address,) = runner.addresses
            yield f"http://127.0.0.1:{address[1]}/v1/traces"
        finally:
            await runner.cleanup()


@pytest.mark.slow
async def test_a_collector_gets_the_traces_by_the_end_of_the_server(tmp_path: Path) -> None:
    collector = Collector()
    async with collector.listening() as url:
        options = ("--asr", "scripted", "--diarizer", "none", "--tracing-url", url)
        async with running_server(options, tmp_path) as server:
            talker = await Talker.start(server.url)
            await talker.play(clip(1, 10))
            assert await talker.finish() == texts(1, 10)
            assert await server.stop() == 0
    finals = [m for m in talker.messages if m["type"] == "final"]
    assert collector.names.count(UTTERANCE_SPAN) == len(finals) > 0
    assert collector.names.count(SESSION_SPAN) == 1
    assert set(collector.names) == {UTTERANCE_SPAN, SESSION_SPAN, *PARTS}
    assert not [word for word in texts(1, 10) if word.encode() in collector.bodies]
