"""The live view: captions in their speakers' colours, open lines that are replaced, a footer.

Owns: what is drawn. The last ``RECENT_MAX`` captions stay in the part of the screen that is drawn
anew, so that a revision recolours them; older ones scroll away and keep the colour they had.
Knows nothing of sockets or audio. Text is inert (``plain``) and never read as markup.
"""

import time
from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from clients.latency import LatencyMeter
from clients.live import CaptionFold
from clients.output import clock, quantiles, speaker_name, summary
from streaming.events import Event, Final, Partial, Revision
from streaming.exports import Caption, Cue
from streaming.exports.transcript import plain
from streaming.timeline import SAMPLES_PER_MS, seconds

RECENT_MAX = 6
COLOURS = ("cyan", "magenta", "green", "yellow", "bright_blue", "bright_red", "bright_magenta")
UNKNOWN_STYLE = "white"


class SpeakerColours:
    """One colour per speaker, in order of appearance; they repeat when they run out."""

    def __init__(self) -> None:
        self._order: dict[str, int] = {}

    def style(self, speaker: str | None) -> str:
        if speaker is None:
            return UNKNOWN_STYLE
        index = self._order.setdefault(speaker, len(self._order))
        return COLOURS[index % len(COLOURS)]


class LiveOutput:
    """Draws a session on a terminal."""

    def __init__(self, console: Console, meter: LatencyMeter) -> None:
        self._console = console
        self._meter = meter
        self._fold = CaptionFold()
        self._colours = SpeakerColours()
        self._recent: deque[str] = deque()
        self._captioned_s = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def message(self, text: str) -> None:
        pass

    def event(self, event: Event) -> None:
        self._fold.apply(event)
        if isinstance(event, Final):
            if event.caption_id in self._recent:  # it is made anew
                self._recent.remove(event.caption_id)
            self._recent.append(event.caption_id)
            self._captioned_s = max(self._captioned_s, seconds(event.span.end))
            self._scroll(keep=RECENT_MAX)
        if isinstance(event, Final | Partial | Revision):
            self._draw()

    def tick(self) -> None:
        self._draw()

    def close(self) -> None:
        """Leaves all captions and the session's figures on the screen."""
        self._live.stop()
        self._scroll(keep=0)
        if self._fold.done is not None:
            self._console.print(Text(summary(self._fold.done), style="dim"))

    def _scroll(self, keep: int) -> None:
        """Print the older captions for good."""
        while len(self._recent) > keep:
            caption = self._fold.caption(self._recent.popleft())
            if caption is not None:
                self._console.print(self._caption_lines(caption))

    def _draw(self) -> None:
        captions = map(self._fold.caption, self._recent)
        recent = [self._caption_lines(caption) for caption in captions if caption]
        opened = [self._open_line(line) for line in self._fold.open_lines]
        self._live.update(Group(*recent, *opened, self._footer()), refresh=True)

    def _caption_lines(self, caption: Caption) -> RenderableType:
        return Group(*(self._cue_line(cue) for cue in caption.cues()))

    def _cue_line(self, cue: Cue) -> Text:
        line = Text(f"{clock(cue.start_ms)}  ", style="dim")
        style = self._colours.style(cue.speaker)
        line.append(f"{speaker_name(cue)}  ", style=f"not dim bold {style}")
        line.append(cue.text, style=f"not dim {style}")
        return line

    def _open_line(self, partial: Partial) -> Text:
        line = Text(f"{clock(partial.span.start // SAMPLES_PER_MS)}  ", style="dim")
        style = self._colours.style(partial.speaker)
        line.append(f"{plain(partial.speaker or '…')}  ", style=f"bold {style}")
        line.append(plain(partial.text), style=f"italic {style}")
        return line

    def _footer(self) -> Text:
        meter = self._meter
        delays = quantiles(meter.quantile_s(0.5), meter.quantile_s(0.95))
        parts = [clock(int(meter.audio_seconds * 1000)), f"finals after {delays}"]
        rtfx = meter.rtfx(self._captioned_s, time.monotonic_ns())
        parts += [f"RTFx {rtfx:.1f}"] if rtfx else []
        parts += [f"{self._fold.lag_seconds:.1f} s behind"] if self._fold.lag_seconds else []
        return Text(" · ".join(parts), style="dim")
