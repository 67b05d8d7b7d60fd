"""What is looked at now and then: workers, readiness, store, loop; on a whole server."""

from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from server.vitals import Vitals, store_path
from streaming.errors import CaptiondError
from streaming.events import SessionStage
from streaming.wire import Start
from tests.server_fakes import BrokenStore, Front, running, until


def hang_up(_: CaptiondError) -> None:
    pass


async def test_workers_are_seen_by_stage_and_state(tmp_path: Path) -> None:
    async with running(tmp_path, diarizer="scripted") as front:
        for stage in SessionStage:
            assert front.metric("workers", stage=stage.value, state="ready") == 1
            assert front.metric("workers", stage=stage.value, state="unready") == 0
            assert front.metric("stage_stalled", stage=stage.value) == 0
        assert front.metric("ready") == 1
        front.worker().ready = None
        assert front.metric("workers", stage="asr", state="ready") == 0
        assert front.metric("workers", stage="asr", state="unready") == 1
        assert front.metric("ready") == 0, "as /readyz says"


async def test_a_server_that_loads_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path, is_warm=False) as front:
        await until(lambda: bool(front.server._workers))
        assert front.metric("ready") == 0
        assert front.metric("workers", stage="asr", state="unready") == 1


async def test_sessions_without_a_connection_are_seen(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        live, _ = await front.hub.open(Start(), "local")
        live.attach(hang_up, 0)
        assert front.metric("sessions_waiting") == 0
        live.detach(hang_up)
        assert front.metric("sessions_waiting") == 1


async def test_a_store_that_refuses_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as front:
        broken = BrokenStore(front.hub.store, monkeypatch)
        live, _ = await front.hub.open(Start(), "local")
        live.attach(hang_up, 0)
        live._note_refusal("the disk is full")
        assert front.metric("store_refusing") == 1
        broken.is_broken = False
        live._note_refusal(None)
        assert front.metric("store_refusing") == 0


def vitals_of(front: Front) -> Vitals:
    return Vitals(front.hub, front.server._settings, lambda: 0)


async def test_the_files_of_the_store_are_measured(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        await front.hub.open(Start(), "local")
        vitals_of(front).measure()
        database = (tmp_path / "captiond.db").stat().st_size
        assert front.metric("store_bytes", file="database") == database > 0
        assert front.metric("store_bytes", file="log") > 0
        assert front.metric("store_commit_seconds_count") > 0
        assert front.metric("store_writes_total") > 0


async def test_without_talkers_the_room_is_what_is_set(tmp_path: Path) -> None:
    async with running(tmp_path, sessions_max=7) as front:
        vitals_of(front).measure()
        assert front.metric("estimated_session_capacity") == 7


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite+aiosqlite:////var/lib/captions.db", Path("/var/lib/captions.db")),
        ("sqlite+aiosqlite:///captiond.db", Path("captiond.db")),
        ("postgresql+asyncpg://host/captiond", None),
    ],
)
def test_only_a_file_can_be_measured(url: str, path: Path | None) -> None:
    assert store_path(url) == path


async def test_the_page_has_one_family_of_each_name(tmp_path: Path) -> None:
    async with running(tmp_path) as front:
        page = front.metrics.render().decode()
        names = [family.name for family in text_string_to_metric_families(page)]
        assert len(names) == len(set(names))
        assert not [name for name in names if name.endswith("_created")]


async def test_the_end_of_the_certificate_is_told(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    ends_at = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).not_valid_after_utc
    options: dict[str, Any] = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    async with running(tmp_path, **options) as front:
        told_s = front.metric("certificate_expiry_timestamp_seconds")
        assert told_s == ends_at.timestamp()
    async with running(tmp_path) as front:
        assert front.metric("certificate_expiry_timestamp_seconds") == 0
