"""The command's run against a small server, and its complaints."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import soundfile
import typer
from typer.testing import CliRunner

from clients.latency import LatencyMeter
from clients.output import NdjsonOutput
from clients.pacing import Pace
from clients.reconnect import Retry
from clients.stream import CaptionStream
from clients.stream_command import Run, stream
from streaming.events import Event
from streaming.wire import AudioFormat
from tests.clients.fake_server import FakeServer, Fault, running
from tests.clients.test_stream import AT_ONCE, final_texts, pcm, texts


@dataclass
class Script:
    """A source of given packets; a live one then waits for ``stop``, a deaf one for ever."""

    content: list[bytes]
    is_live: bool = False
    is_deaf: bool = False
    audio: AudioFormat = field(default_factory=AudioFormat)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def packets(self, frames: int) -> AsyncIterator[bytes]:
        assert frames > 0
        for packet in self.content:
            yield packet
        if self.is_live:
            await (asyncio.Event() if self.is_deaf else self.stopped).wait()

    def stop(self) -> None:
        self.stopped.set()


@dataclass
class Recorder:
    """An output that keeps what it is told, and may press ctrl-C at the first event."""

    ctrl_c: int = 0
    events: list[Event] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    has_event: asyncio.Event = field(default_factory=asyncio.Event)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def event(self, event: Event) -> None:
        for _ in range(self.ctrl_c if not self.events else 0):
            os.kill(os.getpid(), signal.SIGINT)
        self.events.append(event)
        self.has_event.set()

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass


def run_of(url: str, script: Script, recorder: Recorder, retry: Retry = AT_ONCE) -> Run:
    opened = CaptionStream.open(url, retry=retry, on_message=recorder.message)
    return Run(opened, script, [recorder], LatencyMeter(), Pace.MAX, 100)


async def test_a_run_sends_all_and_exits_with_zero() -> None:
    recorder = Recorder()
    async with running(FakeServer([Fault(2), Fault(3)])) as server:
        run = run_of(server.url, Script([pcm(5)] * 6), recorder)
        assert await run.main() == 0
    assert final_texts(recorder.events) == texts(pcm(5)) * 6
    assert run.meter.quantile_s(0.5) is not None


async def test_ctrl_c_once_ends_the_audio_and_shows_the_rest() -> None:
    recorder = Recorder(ctrl_c=1)
    async with running(FakeServer()) as server:
        code = await run_of(server.url, Script([pcm(5)], is_live=True), recorder).main()
    assert code == 130
    assert final_texts(recorder.events) == texts(pcm(5))
    assert server.ends == 1


async def test_ctrl_c_twice_quits() -> None:
    script = Script([pcm(1)], is_live=True, is_deaf=True)
    recorder = Recorder()
    async with running(FakeServer()) as server:
        run = run_of(server.url, script, recorder)
        running_task = asyncio.create_task(run.main())
        await recorder.has_event.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await script.stopped.wait()
        os.kill(os.getpid(), signal.SIGINT)
        assert await running_task == 130


def test_ndjson_output_is_an_output_of_a_run(tmp_path: Path) -> None:
    with (tmp_path / "events.ndjson").open("w+") as sink:
        NdjsonOutput(sink).message("{}")
        sink.seek(0)
        assert sink.read() == "{}\n"


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(stream)
    return app


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command(), [*arguments])
    return result.exit_code, result.output


@pytest.fixture
def wav(tmp_path: Path) -> str:
    path = tmp_path / "a.wav"
    soundfile.write(path, [0.0] * 1_600, 16_000)
    return str(path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--task", "sing"], "--task is transcribe or translate"),
        (["--language", "English"], "--language"),
        (["--url", "localhost"], "ws://127.0.0.1:8710"),
        (["--channel-names", "a,b"], "2 channel names for 1 channels"),
        (["--output", "/nowhere/x.srt"], "/nowhere/x.srt"),
        (["--output", "x.doc"], ".srt"),
        (["--packet-ms", "0"], "packet-ms"),
        (["--format", "pdf"], "pdf"),
        (["--speakers", "0"], "--speakers: "),
        (["--speakers-max", "51"], "--speakers-max: "),
    ],
)
def test_wrong_usage_exits_with_two_and_one_sentence(
    wav: str, options: list[str], complaint: str
) -> None:
    code, output = invoke(wav, *options)
    assert code == 2
    assert complaint in output


def test_a_missing_file_is_wrong_usage() -> None:
    code, output = invoke("absent.wav")
    assert (code, output.count("\n")) == (2, 1)
    assert "no such file" in output


async def closed_url() -> str:
    async with running(FakeServer()) as server:
        return server.url


def test_no_server_exits_with_one_and_says_what_to_start(wav: str) -> None:
    code, output = invoke(wav, "--url", asyncio.run(closed_url()), "--format", "txt")
    assert (code, output.count("\n")) == (1, 1)
    assert "is `captiond serve` running" in output
