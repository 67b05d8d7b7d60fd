"""``captiond stream``: a file, the microphone or standard input becomes captions.

Owns: the options, the wiring of source, pace, stream and output, ctrl-C, exit codes and the one
line that says what went wrong. Registered by the server's command line.
Exit codes: 0 done, 1 refused or lost, 2 wrong usage, 130 ended by ctrl-C.
"""

import asyncio
import os
import signal
import ssl
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer
from pydantic import ValidationError
from rich.console import Console

from clients.audio_source import (
    AudioSource,
    AudioSourceError,
    FileSource,
    MicrophoneSource,
    PipeSource,
    audio_format,
)
from clients.errors import CaptionStreamError, ConnectionLost, ServerRefused
from clients.latency import LatencyMeter
from clients.output import Format, Output, file_output, format_of
from clients.pacing import Pace, Pacer, packet_frames
from clients.stream import CaptionStream, frame_bytes
from clients.terminal import LiveOutput
from clients.tuning_options import (
    EndpointingMs,
    MaxDelayMs,
    PartialIntervalMs,
    Speakers,
    SpeakersMax,
    SpeakersMin,
    Stability,
    StableOnly,
    speaker_hints,
    tuning,
)
from streaming.events import Event, Final
from streaming.timeline import seconds
from streaming.wire import Start

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
TICK_S = 0.25
DEFAULT_URL = "ws://127.0.0.1:8710"


@dataclass(slots=True)
class Run:
    """One call of the command, once its options are understood."""

    stream: CaptionStream
    source: AudioSource
    outputs: list[Output]
    meter: LatencyMeter
    pace: Pace
    packet_ms: int
    interrupts: int = 0
    source_failure: AudioSourceError | None = None

    async def main(self) -> int:
        """Send, read and draw until the session is done. Returns the exit code.

        Raises: AudioSourceError where the source broke off, after the captions of what came.
        """
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt, task)
        try:
            async with self.stream, asyncio.TaskGroup() as tasks:
                ticker = tasks.create_task(self._tick())
                tasks.create_task(self._send())
                await self._read()
                ticker.cancel()
        except asyncio.CancelledError:
            if not self.interrupts:
                raise
            return EXIT_INTERRUPTED
        if self.source_failure is not None:
            raise self.source_failure
        return EXIT_INTERRUPTED if self.interrupts else EXIT_DONE

    def _interrupt(self, task: "asyncio.Task[int]") -> None:
        """Once: no more audio, the rest is still shown. Twice: out."""
        self.interrupts += 1
        self.source.stop()
        if self.interrupts > 1:
            task.cancel()

    async def _send(self) -> None:
        pacer = Pacer(self.pace, self.source.audio.sample_rate, time.monotonic_ns())
        # A stream that failed is reported by the reader, after the events that still came.
        with suppress(CaptionStreamError):
            try:
                await self._send_packets(pacer)
            except AudioSourceError as error:
                self.source_failure = error
            await self.stream.end()

    async def _send_packets(self, pacer: Pacer) -> None:
        audio = self.source.audio
        frames = packet_frames(self.packet_ms, audio.sample_rate)
        async for packet in self.source.packets(frames):
            end = self.stream.accepted_frames + len(packet) // frame_bytes(audio)
            await asyncio.sleep(pacer.wait_s(end, time.monotonic_ns()))
            await self.stream.send(packet)
            self.meter.packet_sent(end / audio.sample_rate, time.monotonic_ns())

    async def _read(self) -> None:
        async for event in self.stream:
            self._measure(event)
            for output in self.outputs:
                output.event(event)

    def _measure(self, event: Event) -> None:
        if isinstance(event, Final):
            self.meter.caption_came(seconds(event.span.end), time.monotonic_ns())

    async def _tick(self) -> None:
        while True:
            for output in self.outputs:
                output.tick()
            await asyncio.sleep(TICK_S)


def stream(
    audio: Annotated[
        str, typer.Argument(metavar="FILE|mic|-", help="A sound file, the microphone, or stdin.")
    ],
    url: Annotated[str, typer.Option(envvar="CAPTIOND_URL", help="The server.")] = DEFAULT_URL,
    api_key: Annotated[
        str | None, typer.Option(envvar="CAPTIOND_API_KEY", help="Better given by environment.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file to trust, for a certificate of your own.")
    ] = None,
    output_format: Annotated[
        Format | None, typer.Option("--format", help="Default: live, or by --output's suffix.")
    ] = None,
    pace: Annotated[
        Pace | None, typer.Option(help="As if spoken now (default for files), or at once.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Like en; detected where left out.")] = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate to English.")] = "transcribe",
    prompt: Annotated[str | None, typer.Option(help="Text that sets style and spelling.")] = None,
    keyword: Annotated[
        list[str] | None, typer.Option(help="A word to listen for; may be repeated.")
    ] = None,
    diarize: Annotated[bool, typer.Option("--diarize/--no-diarize", help="Name speakers.")] = True,
    partials: Annotated[
        bool, typer.Option("--partials/--no-partials", help="Show text while it is spoken.")
    ] = True,
    packet_ms: Annotated[int, typer.Option(min=10, max=1000, help="Length of a packet.")] = 100,
    channel_names: Annotated[
        str | None, typer.Option(help="A name per channel, with commas: Alice,Bob.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write to this file; without --format, watch live too.")
    ] = None,
    sample_rate: Annotated[int, typer.Option(help="Of stdin and the microphone, in Hz.")] = 16_000,
    channels: Annotated[int, typer.Option(help="Of stdin and the microphone.")] = 1,
    encoding: Annotated[str, typer.Option(help="Of stdin.")] = "pcm_s16le",
    partial_interval_ms: PartialIntervalMs = None,
    endpointing_ms: EndpointingMs = None,
    max_delay_ms: MaxDelayMs = None,
    stability: Stability = None,
    stable_only: StableOnly = None,
    speakers: Speakers = None,
    speakers_min: SpeakersMin = None,
    speakers_max: SpeakersMax = None,
) -> None:
    """Caption a sound file, the microphone (mic) or raw PCM on standard input (-)."""
    with ExitStack() as stack:
        try:
            source = _source(audio, encoding, sample_rate, channels, _names(channel_names))
            own = tuning(partial_interval_ms, endpointing_ms, max_delay_ms, stability, stable_only)
            own |= speaker_hints(speakers, speakers_min, speakers_max)
            start = _start(source, language, task, prompt, keyword or [], diarize, partials, **own)
            meter = LatencyMeter()
            outputs = _outputs(stack, output, output_format, meter)
            opened = CaptionStream.open(
                url,
                start,
                api_key=api_key,
                on_message=lambda text: _show(outputs, text),
                tls=_trusting(ca),
            )
        except (AudioSourceError, ValueError, OSError) as error:
            raise _failed(str(error), EXIT_USAGE) from None
        run = Run(opened, source, outputs, meter, _pace_of(audio, pace), packet_ms)
        code = _finish(run, url)
    raise typer.Exit(code)


def _trusting(ca: Path | None) -> ssl.SSLContext | None:
    """Raises: ValueError where the file cannot be used."""
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ValueError(f"--ca: cannot use {ca}: {error.strerror or error}") from None


def _show(outputs: list[Output], text: str) -> None:
    for output in outputs:
        output.message(text)


def _pace_of(audio: str, pace: Pace | None) -> Pace:
    """A microphone is its own clock, and so, if nothing else is said, is a pipe."""
    if audio == "mic":
        return Pace.MAX
    return pace or (Pace.MAX if audio == "-" else Pace.REALTIME)


def _finish(run: Run, url: str) -> int:
    """Run, and turn what ends it into a code and at most one line."""
    complaint = None
    code = EXIT_FAILED
    try:
        code = asyncio.run(run.main())
    except* ServerRefused as errors:
        complaint = _refusal(_first(errors))
    except* ConnectionLost as errors:
        complaint = f"{_first(errors)}; is `captiond serve` running at {url}?"
    except* AudioSourceError as errors:
        complaint = str(_first(errors))
    except* BrokenPipeError:
        # Whoever read our output has gone (`| head`): nobody is left to be told.
        os._exit(EXIT_FAILED)
    for output in run.outputs:
        output.close()
    _report_dropped(run.source)
    if complaint is not None:
        raise _failed(complaint, EXIT_FAILED)
    return code


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _refusal(error: BaseException) -> str:
    assert isinstance(error, ServerRefused)
    after_ms = error.retry_after_ms
    wait = "" if after_ms is None else f" (try again in {max(1, round(after_ms / 1000))} s)"
    return f"{error}{wait}"


def _report_dropped(source: AudioSource) -> None:
    if isinstance(source, MicrophoneSource) and source.dropped_packets:
        print(
            f"captiond: {source.dropped_packets} microphone packets were lost while the server "
            "could not be reached",
            file=sys.stderr,
        )


def _failed(complaint: str, code: int) -> typer.Exit:
    print(f"captiond: {' '.join(complaint.split())}", file=sys.stderr)
    return typer.Exit(code)


def _names(channel_names: str | None) -> list[str | None] | None:
    if channel_names is None:
        return None
    return [name.strip() or None for name in channel_names.split(",")]


def _source(
    audio: str, encoding: str, sample_rate: int, channels: int, names: list[str | None] | None
) -> AudioSource:
    if audio == "mic":
        return MicrophoneSource(audio_format("pcm_s16le", sample_rate, channels, names))
    if audio == "-":
        return PipeSource(audio_format(encoding, sample_rate, channels, names))
    return FileSource(Path(audio), names)


def _start(
    source: AudioSource,
    language: str | None,
    task: str,
    prompt: str | None,
    keywords: list[str],
    diarize: bool,
    partials: bool,
    **own: Any,
) -> Start:
    """Raises: ValueError that names the option."""
    if task not in {"transcribe", "translate"}:
        raise ValueError(f"--task is transcribe or translate, not {task}")
    try:
        return Start(
            audio=source.audio,
            language=language,
            task=_task(task),
            prompt=prompt,
            keywords=keywords,
            diarize=diarize,
            partials=partials,
            **own,
        )
    except ValidationError as error:
        first = error.errors()[0]
        flag = str(first["loc"][0]).replace("_", "-")
        raise ValueError(f"--{flag}: {first['msg']}") from None


def _task(task: str) -> Literal["transcribe", "translate"]:
    return "translate" if task == "translate" else "transcribe"


def _outputs(
    stack: ExitStack, path: Path | None, chosen: Format | None, meter: LatencyMeter
) -> list[Output]:
    """Raises: OSError where the file cannot be written, ValueError where its format is unknown."""
    if path is None:
        return [_screen(chosen or Format.LIVE, meter)]
    file_format = chosen or format_of(path)
    sink: TextIO = stack.enter_context(path.open("w", encoding="utf-8"))
    written = file_output(sink, file_format)
    return [written] if chosen is not None else [written, _screen(Format.LIVE, meter)]


def _screen(chosen: Format, meter: LatencyMeter) -> Output:
    console = Console()
    if chosen is Format.LIVE and console.is_terminal:
        return LiveOutput(console, meter)
    return file_output(sys.stdout, chosen)
