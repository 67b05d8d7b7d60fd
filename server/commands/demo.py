"""``captiond demo``: a server with the embedded defaults captions the clip that ships with it."""

import asyncio
import importlib.resources
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from clients.audio_source import FileSource
from clients.latency import LatencyMeter
from clients.live import CaptionFold
from clients.output import Format, Output, file_output
from clients.pacing import Pace
from clients.stream import CaptionStream
from clients.stream_command import Run
from clients.terminal import LiveOutput
from server.child import ServerDied, run_with_server, running_server
from server.engines.demo_whisper import demo_checkpoint
from streaming.events import CaptionWord, Done, Event
from streaming.timeline import Span, samples_from_seconds
from streaming.turns import Turn
from streaming.wire import Start

CLIP = importlib.resources.files("server.assets") / "demo_clip"
PACKET_MS = 100


@dataclass(frozen=True, slots=True)
class Reference:
    """What is really said in the clip."""

    text: str
    turns: tuple[Turn, ...]


@dataclass(slots=True)
class Held:
    """An output that prints nothing and keeps what the client holds at the end."""

    fold: CaptionFold = field(default_factory=CaptionFold)

    def message(self, text: str) -> None:
        pass

    def event(self, event: Event) -> None:
        self.fold.apply(event)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass


def demo(
    json: Annotated[
        bool, typer.Option("--json", help="Every event as NDJSON, and a summary as the last line.")
    ] = False,
    pace: Annotated[
        Pace, typer.Option(help="As if spoken now, or as fast as the server takes it.")
    ] = Pace.REALTIME,
    asr: Annotated[
        str | None, typer.Option(help="Speech recognition engine; default: the demo checkpoint.")
    ] = None,
    diarizer: Annotated[str, typer.Option(help="Diarizer.")] = "embedded",
) -> None:
    """Caption the clip that ships with captiond: two speakers, half a minute, no download."""
    console = Console(stderr=json)
    asr = asr or embedded_recognizer()
    try:
        summary = run_with_server(
            _demo(console, as_json=json, pace=pace, asr=asr, diarizer=diarizer)
        )
    except ServerDied as error:
        console.print(f"[red]captiond:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None
    if json:
        print(orjson.dumps(summary).decode())
    else:
        _print_summary(console, summary)


def embedded_recognizer() -> str:
    """The engine that knows the clip's domain, where this build has its checkpoint."""
    return "pocketsphinx" if demo_checkpoint() is None else "demo"


async def _demo(
    console: Console, *, as_json: bool, pace: Pace, asr: str, diarizer: str
) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="captiond-demo-") as folder,
        importlib.resources.as_file(CLIP) as clip,
    ):
        console.print(f"[dim]Starting a server (asr {asr}, diarizer {diarizer}) …[/dim]")
        arguments = ["--asr", asr, "--diarizer", diarizer, "--log-level", "warning"]
        async with running_server(arguments, Path(folder), hears_keyboard=False) as server:
            return await _caption(server.url, clip, console, as_json=as_json, pace=pace)


async def _caption(
    url: str, clip: Path, console: Console, *, as_json: bool, pace: Pace
) -> dict[str, Any]:
    meter, held = LatencyMeter(), Held()
    outputs: list[Output] = [held, _shown(console, meter, as_json=as_json)]
    source = FileSource(clip / "clip.flac", None)

    def show_message(text: str) -> None:
        for output in outputs:
            output.message(text)

    start = Start(audio=source.audio)
    stream = CaptionStream.open(url, start, on_message=show_message)
    started = time.monotonic()
    try:
        await Run(stream, source, outputs, meter, pace, PACKET_MS).main()
    finally:
        for output in outputs:
            output.close()
    if held.fold.done is None:
        raise asyncio.CancelledError  # by Ctrl-C: there is nothing to sum up
    wall_s = time.monotonic() - started
    reference = _reference(clip)
    return await asyncio.to_thread(_summary, held.fold, reference, stream.ready.engines, wall_s)


def _shown(console: Console, meter: LatencyMeter, *, as_json: bool) -> Output:
    if as_json:
        return file_output(typer.get_text_stream("stdout"), Format.NDJSON)
    if console.is_terminal:
        return LiveOutput(console, meter)
    return file_output(typer.get_text_stream("stdout"), Format.LIVE)


def _reference(clip: Path) -> Reference:
    fields = orjson.loads((clip / "reference.json").read_bytes())
    turns = (
        Turn(
            Span(samples_from_seconds(turn["start"]), samples_from_seconds(turn["end"])),
            turn["speaker"],
        )
        for turn in fields["turns"]
    )
    return Reference(fields["text"], tuple(turns))


def _summary(
    fold: CaptionFold, reference: Reference, engines: dict[str, str], wall_s: float
) -> dict[str, Any]:
    from server.scoring import diarization_error_rate, turns_of_words, word_error_rate

    captions, done = fold.captions, fold.done
    assert isinstance(done, Done)
    words: list[CaptionWord] = [word for caption in captions for word in caption.words]
    text = " ".join(caption.text for caption in captions)
    return {
        "type": "summary",
        "audio_seconds": done.audio_seconds,
        "words": done.words,
        "speakers": len({word.speaker for word in words if word.speaker is not None}),
        "wer": word_error_rate(reference.text, text),
        "der": diarization_error_rate(reference.turns, turns_of_words(words)),
        "rtfx": done.rtfx,
        "wall_seconds": round(wall_s, 3),
        "first_shown_s": {"p50": done.partial_latency_s.p50, "p95": done.partial_latency_s.p95},
        "final_s": {"p50": done.final_latency_s.p50, "p95": done.final_latency_s.p95},
        "asr": engines["asr"],
        "diarizer": engines.get("diarizer", "none"),
    }


def _print_summary(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title="What the client holds at the end", title_justify="left", box=None)
    table.add_column("", style="dim")
    table.add_column("", justify="right")
    table.add_column("", style="dim")
    first, final = summary["first_shown_s"], summary["final_s"]
    for name, value, meaning in (
        ("audio", f"{summary['audio_seconds']:.1f} s", f"by {summary['asr']}"),
        ("words", f"{summary['words']}", f"WER {summary['wer']:.2f} against the known text"),
        ("speakers", f"{summary['speakers']}", f"DER {summary['der']:.2f}, no collar"),
        ("RTFx", _figure(summary["rtfx"]), "audio seconds per second of engine time"),
        (
            "first shown",
            _figure(first["p50"], " s"),
            f"p95 {_figure(first['p95'], ' s')}, per word",
        ),
        ("final", _figure(final["p50"], " s"), f"p95 {_figure(final['p95'], ' s')}, per word"),
    ):
        table.add_row(name, value, meaning)
    console.print(table)


def _figure(value: float | None, unit: str = "") -> str:
    """A dash where nothing was measured: a server that heard no word has no delays."""
    return "–" if value is None else f"{value:.2f}{unit}"
