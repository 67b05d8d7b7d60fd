"""Each system's wire format: from what it sends to what a reader sees."""

import base64
import gzip
from pathlib import Path

import orjson
import pytest

from load_tests.peers.captiond import CaptiondDialect
from load_tests.peers.talking import Dialect
from load_tests.peers.whisper_live import WhisperLiveDialect
from load_tests.peers.whisperlivekit import WhisperLiveKitDialect, alignment_heads


def texts(dialect: Dialect, *messages: object) -> list[str | None]:
    return [dialect.receive(orjson.dumps(message)).text for message in messages]


def test_captiond_shows_finals_and_open_partials_by_time() -> None:
    def caption(kind: str, name: str, start: float, text: str) -> dict[str, object]:
        return {"type": kind, "caption_id": name, "start": start, "text": text}

    assert texts(
        CaptiondDialect(),
        caption("partial", "c1", 0.5, "Alice will"),
        caption("partial", "c2", 3.0, "Yes"),
        {"type": "ack", "stored_through_frame": 1, "credit_until_frame": 2},
        caption("final", "c1", 0.5, "Alice will test it."),
    ) == ["Alice will", "Alice will Yes", None, "Alice will test it. Yes"]


def test_captiond_tells_when_it_is_ready_done_or_sorry() -> None:
    dialect = CaptiondDialect()
    assert b'"start"' in dialect.opening().encode()
    assert dialect.receive('{"type":"ready"}').is_ready
    assert dialect.receive('{"type":"gap"}').is_gap
    assert dialect.receive('{"type":"done"}').is_done
    refused = dialect.receive('{"type":"error","code":"overloaded","message":"later"}')
    assert refused.failure == "error overloaded: later"


def test_whisper_live_keeps_what_is_complete_and_shows_what_is_open() -> None:
    def segment(start: str, text: str, *, is_complete: bool) -> dict[str, object]:
        return {"start": start, "end": "9", "text": text, "completed": is_complete}

    assert texts(
        WhisperLiveDialect(),
        {"uid": "a", "segments": [segment("0.0", " Alice", is_complete=False)]},
        {
            "uid": "a",
            "segments": [
                segment("0.0", " Alice will.", is_complete=True),
                segment("10.5", " Yes", is_complete=False),
            ],
        },
        {"uid": "a", "language": "en"},
        {"uid": "a", "segments": [segment("9.5", " No.", is_complete=True)]},
    ) == [" Alice", " Alice will.  Yes", None, " Alice will.  No. "]


def test_whisper_live_takes_floats_and_tells_when_it_is_full() -> None:
    dialect = WhisperLiveDialect()
    assert orjson.loads(dialect.opening())["language"] == "en"
    assert len(dialect.packet(b"\x00\x40" * 4)) == 16
    assert dialect.receive('{"uid":"a","message":"SERVER_READY","backend":"x"}').is_ready
    full = dialect.receive('{"uid":"a","status":"WAIT","message":2.5}')
    assert full.failure == "WAIT: 2.5"


def test_whisperlivekit_shows_lines_and_buffers() -> None:
    dialect: Dialect = WhisperLiveKitDialect()
    assert dialect.opening() is None
    assert dialect.receive('{"type":"config","useAudioWorklet":true}').is_ready
    assert texts(
        dialect,
        {
            "status": "active_transcription",
            "lines": [{"text": "Alice will"}, {"text": None, "speaker": -2}],
            "buffer_diarization": "",
            "buffer_transcription": "test",
        },
    ) == ["Alice will   test"]
    assert dialect.receive('{"type":"ready_to_stop"}').is_done
    assert dialect.receive('{"type":"error","error":"no"}').failure == "error: no"
    assert dialect.receive('{"status":"error","error":"no ffmpeg"}').failure == "error: no ffmpeg"


@pytest.mark.parametrize("dialect", [CaptiondDialect(), WhisperLiveKitDialect()])
def test_pcm_goes_out_as_it_is(dialect: Dialect) -> None:
    assert dialect.packet(b"\x01\x02") == b"\x01\x02"


def test_alignment_heads_are_named_as_whisperlivekit_reads_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"decoder_layers": 2, "decoder_attention_heads": 3}')
    (tmp_path / "generation_config.json").write_text('{"alignment_heads": [[1, 0], [0, 2]]}')
    told = alignment_heads(tmp_path)
    assert told is not None
    assert gzip.decompress(base64.b85decode(told)) == bytes([0, 0, 1, 1, 0, 0])
    (tmp_path / "generation_config.json").write_text("{}")
    assert alignment_heads(tmp_path) is None
