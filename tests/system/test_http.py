"""HTTP of a real server: health, metrics, transcripts, tenants, keys, origins, headers."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pysubs2
import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from server.child import ServerChild
from server.routes import Routes
from streaming.wire import STREAM_PATH
from tests.system.talker import Message, Talker, clip, texts

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ANN_KEY, BEN_KEY = "ann-0123456789abcdef", "ben-0123456789abcdef"
FRIEND = "https://captions.example"
FAILING = 9
"""The engine fails on this stream's words."""
SERVER_OPTIONS = (
    *("--api-keys", f"ann:{ANN_KEY}"),
    *("--api-keys", f"ben:{BEN_KEY}"),
    *("--allowed-origins", FRIEND),
    *("--asr-options", f"fail_stream={FAILING}"),
)
WORDS = 10
UNKNOWN = "0" * 24
OPEN_PATHS = {
    *("/", "/view/{id}", "/overlay/{id}", "/static/{name}"),
    *("/healthz", "/readyz", "/metrics"),
}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def all_routes() -> list[tuple[str, str]]:
    """Every method and path that the server answers; a new route is here by itself."""
    app = web.Application()
    Routes(cast("Any", SimpleNamespace(store=None)), cast("Any", SimpleNamespace())).add_to(app)
    found = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }
    return sorted({*found, ("GET", STREAM_PATH)})


GUARDED = [route for route in all_routes() if route[1] not in OPEN_PATHS]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session(server: ServerChild) -> Message:
    """A session of Ann's that has ended: its ``ready``, with ``done`` beside it."""
    talker = await Talker.start(server.url, key=ANN_KEY)
    await talker.play(clip(1, WORDS))
    assert await talker.finish() == texts(1, WORDS)
    return {**talker.ready, "done": talker.messages[-1]}


@pytest_asyncio.fixture(loop_scope="module")
async def http(server: ServerChild) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as client:
        yield client


def filled(path: str, session: Message) -> str:
    return path.replace("{id}", session["session_id"]).replace("{name}", "app.js")


# Health and metrics


async def test_health_and_readiness(http: aiohttp.ClientSession) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await http.get(path)).status == 200


async def metrics_of(http: aiohttp.ClientSession) -> dict[str, Any]:
    answer = await http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(await answer.text())}


def total(family: Any, suffix: str = "", **labels: str) -> float:
    return sum(
        float(sample.value)
        for sample in family.samples
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items()
    )


async def test_metrics_hold_what_an_operator_asks_for(
    http: aiohttp.ClientSession, session: Message
) -> None:
    families = await metrics_of(http)
    audio_s = session["done"]["audio_seconds"]
    received = families["captiond_audio_received_seconds"]
    assert total(received, "_total") == pytest.approx(audio_s, abs=0.002)
    assert "captiond_sessions_active" in families
    assert total(families["captiond_sessions"], "_total") >= 1
    for name in ("partial", "final"):
        latency = families[f"captiond_{name}_latency_seconds"]
        assert latency.type == "histogram"
        assert total(latency, "_count") == WORDS
    for stage in ("vad", "asr"):
        assert total(families["captiond_rtfx"], stage=stage) > 0
        assert total(families["captiond_batch_size"], "_count", stage=stage) > 0
        depths = families["captiond_queue_depth"].samples
        assert [s.value for s in depths if s.labels == {"stage": stage}] == [0]


async def test_drops_are_counted_by_reason(
    server: ServerChild, http: aiohttp.ClientSession
) -> None:
    talker = await Talker.start(server.url, key=BEN_KEY)
    await talker.play(clip(FAILING, 3))
    assert await talker.finish() == []
    gap_s = talker.messages[-1]["gap_seconds"]
    assert gap_s >= 3 * 0.32 - 0.064
    dropped = (await metrics_of(http))["captiond_audio_dropped_seconds"]
    assert total(dropped, "_total", reason="engine_failed") == pytest.approx(gap_s, abs=0.001)


async def test_sessions_are_counted_while_they_run(
    server: ServerChild, http: aiohttp.ClientSession
) -> None:
    talker = await Talker.start(server.url, key=ANN_KEY)
    assert total((await metrics_of(http))["captiond_sessions_active"]) == 1
    await talker.finish()


async def test_no_word_and_no_key_is_in_the_metrics_or_the_log(
    server: ServerChild, http: aiohttp.ClientSession, session: Message
) -> None:
    page = await (await http.get("/metrics")).text()
    for secret in (ANN_KEY, BEN_KEY, session["resume_token"], *texts(1, WORDS)):
        assert secret not in page
        assert secret not in server.log_path.read_text()


# Transcripts


async def transcript(http: aiohttp.ClientSession, session: Message, name: str) -> str:
    path = f"/v1/sessions/{session['session_id']}/transcript?format={name}"
    answer = await http.get(path, headers=bearer(ANN_KEY))
    assert answer.status == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return await answer.text()


def scripted_words(text: str) -> list[str]:
    return [word for word in text.split() if word.startswith("w")]


@pytest.mark.parametrize("name", ["srt", "vtt"])
async def test_subtitles_parse(http: aiohttp.ClientSession, session: Message, name: str) -> None:
    text = await transcript(http, session, name)
    cues = pysubs2.SSAFile.from_string(text, format_=name)
    assert len(cues) == 2
    assert all(a.end <= b.start for a, b in itertools.pairwise(cues))
    assert scripted_words(" ".join(cue.plaintext for cue in cues)) == texts(1, WORDS)


async def test_text_and_json(http: aiohttp.ClientSession, session: Message) -> None:
    assert scripted_words(await transcript(http, session, "txt")) == texts(1, WORDS)
    path = f"/v1/sessions/{session['session_id']}/transcript"
    answer = await http.get(path, headers=bearer(ANN_KEY))
    document = await answer.json()
    words = [word["word"] for caption in document["captions"] for word in caption["words"]]
    assert words == texts(1, WORDS)


async def test_unknown_formats_are_named(http: aiohttp.ClientSession, session: Message) -> None:
    path = f"/v1/sessions/{session['session_id']}/transcript?format=docx"
    answer = await http.get(path, headers=bearer(ANN_KEY))
    assert answer.status == 400
    error = await answer.json()
    assert error["code"] == "unsupported"
    assert "srt" in error["message"]


# Tenants


@pytest.mark.parametrize("suffix", ["", "/transcript", "/transcript?format=srt"])
async def test_a_foreign_session_looks_like_none(
    http: aiohttp.ClientSession, session: Message, suffix: str
) -> None:
    answers = []
    for session_id in (session["session_id"], UNKNOWN, "..%2F..%2Fetc"):
        answer = await http.get(f"/v1/sessions/{session_id}{suffix}", headers=bearer(BEN_KEY))
        answers.append((answer.status, await answer.text()))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == 404
    assert '"unknown_session"' in answers[0][1]


async def test_lists_hold_only_ones_own(http: aiohttp.ClientSession, session: Message) -> None:
    own = await (await http.get("/v1/sessions", headers=bearer(ANN_KEY))).json()
    assert session["session_id"] in [record["session_id"] for record in own["sessions"]]
    others = await (await http.get("/v1/sessions", headers=bearer(BEN_KEY))).json()
    own_ids, other_ids = (
        {record["session_id"] for record in page["sessions"]} for page in (own, others)
    )
    assert not own_ids & other_ids


async def test_a_foreign_session_is_neither_deleted_nor_resumed(
    server: ServerChild, http: aiohttp.ClientSession
) -> None:
    talker = await Talker.start(server.url, key=ANN_KEY)
    path = f"/v1/sessions/{talker.ready['session_id']}"
    assert (await http.delete(path, headers=bearer(BEN_KEY))).status == 404
    thief = await Talker.resume(server.url, talker.ready, key=BEN_KEY)
    assert (await thief.refusal())["code"] == "unknown_session"
    await talker.play(clip(2, WORDS))
    assert await talker.finish() == texts(2, WORDS)


async def test_deleted_is_gone(server: ServerChild, http: aiohttp.ClientSession) -> None:
    talker = await Talker.start(server.url, key=BEN_KEY)
    await talker.play(clip(3, WORDS))
    await talker.finish()
    path = f"/v1/sessions/{talker.ready['session_id']}"
    assert (await http.delete(path, headers=bearer(BEN_KEY))).status == 204
    for suffix in ("", "/transcript"):
        assert (await http.get(path + suffix, headers=bearer(BEN_KEY))).status == 404


async def test_the_talker_of_a_deleted_session_is_told(
    server: ServerChild, http: aiohttp.ClientSession
) -> None:
    talker = await Talker.start(server.url, key=BEN_KEY)
    await talker.play(clip(4, WORDS))
    await talker.until_words(WORDS)
    path = f"/v1/sessions/{talker.ready['session_id']}"
    assert (await http.delete(path, headers=bearer(BEN_KEY))).status == 204
    error = await talker.refusal()
    assert error["code"] == "unknown_session"
    assert "deleted" in error["message"]
    assert (await http.get(path, headers=bearer(BEN_KEY))).status == 404
    thief = await Talker.resume(server.url, talker.ready, key=BEN_KEY)
    assert (await thief.refusal())["code"] == "unknown_session"


# Keys


def subprotocol(key: str) -> str:
    return "captiond.key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


BAD_CREDENTIALS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "empty": [("Authorization", "")],
    "scheme only": [("Authorization", "Bearer ")],
    "key only": [("Authorization", ANN_KEY)],
    "wrong": [("Authorization", "Bearer wrong-0123456789abcdef")],
    "prefix": [("Authorization", f"Bearer {ANN_KEY[:-1]}")],
    "longer": [("Authorization", f"Bearer {ANN_KEY}x")],
    "other case": [("Authorization", f"Bearer {ANN_KEY.upper()}")],
    "with its name": [("Authorization", f"Bearer ann:{ANN_KEY}")],
    "name": [("Authorization", "Bearer ann")],
    "basic": [("Authorization", "Basic " + base64.b64encode(ANN_KEY.encode()).decode())],
    "wrong, then right": [
        ("Authorization", "Bearer wrong-0123456789abcdef"),
        ("Authorization", f"Bearer {ANN_KEY}"),
    ],
    "no ASCII": [("Authorization", "Bearer schlüssel-0123456789")],
    "wrong header, right subprotocol": [
        ("Authorization", "Bearer wrong-0123456789abcdef"),
        ("Sec-WebSocket-Protocol", f"captiond.v1, {subprotocol(ANN_KEY)}"),
    ],
    "subprotocol not base64": [("Sec-WebSocket-Protocol", f"captiond.key.{ANN_KEY}!")],
    "subprotocol wrong": [("Sec-WebSocket-Protocol", subprotocol("wrong-0123456789abcdef"))],
    "cookie": [("Cookie", f"api_key={ANN_KEY}")],
    "other header": [("X-Api-Key", ANN_KEY)],
}


async def test_routes_are_found() -> None:
    assert len(GUARDED) >= 5
    assert ("GET", STREAM_PATH) in GUARDED


@pytest.mark.parametrize("case", BAD_CREDENTIALS)
async def test_no_guarded_route_opens_without_a_key(
    http: aiohttp.ClientSession, session: Message, case: str
) -> None:
    for method, path in GUARDED:
        upgrade = list(UPGRADE.items()) if path == STREAM_PATH else []
        headers = [*BAD_CREDENTIALS[case], *upgrade]
        # Keys are never taken from an address, where logs would keep them.
        for query in ("", f"?token={ANN_KEY}", f"?api_key={ANN_KEY}&key={ANN_KEY}"):
            answer = await http.request(method, filled(path, session) + query, headers=headers)
            assert answer.status == 401, (method, path, query)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            await check_body(answer, "unauthorized")


async def test_a_huge_key_is_refused_and_not_logged(
    server: ServerChild, http: aiohttp.ClientSession, session: Message
) -> None:
    headers = bearer(ANN_KEY + "k" * 65_536)
    for method, path in GUARDED:
        if method != "HEAD":
            answer = await http.request(method, filled(path, session), headers=headers)
            assert answer.status in (400, 401, 431)
    assert ANN_KEY not in server.log_path.read_text()


@pytest.mark.parametrize("header", [f"bearer {ANN_KEY}", f"Token {ANN_KEY}", f"BEARER  {ANN_KEY}"])
async def test_spellings_of_a_good_key(http: aiohttp.ClientSession, header: str) -> None:
    answer = await http.get("/v1/sessions", headers={"Authorization": header})
    assert answer.status == 200


async def test_a_browser_gives_its_key_as_a_subprotocol(server: ServerChild) -> None:
    offered = ["captiond.v1", subprotocol(BEN_KEY)]
    talker = await Talker.connect(server.url, subprotocols=offered)
    assert talker.socket.subprotocol == "captiond.v1"
    await talker.say("start")
    await talker.until("ready")
    assert await talker.finish() == []


async def test_open_routes_need_no_key(http: aiohttp.ClientSession, session: Message) -> None:
    for method, path in set(all_routes()) - set(GUARDED):
        assert (await http.request(method, filled(path, session))).status == 200


# Origins and hosts


def port_of(server: ServerChild) -> str:
    return server.url.rpartition(":")[2]


FOREIGN_ORIGINS = [
    "null",
    "",
    "http://evil.example",
    "http://127.0.0.1.evil.example:PORT",
    "http://127.0.0.1@evil.example:PORT",
    "http://127.0.0.1:1",
    "http://127.0.0.1",
    "http://localhost:PORT",
    "http://[::1]:PORT",
    "file://",
    "ftp://127.0.0.1:PORT",
    "http://127.0.0.1:PORT/path",
    "http://captions.example",
    "https://captions.example.evil.example",
    "https://captions.example:8443",
    "https://evilcaptions.example",
]
OWN_ORIGINS = ["http://127.0.0.1:PORT", "HTTP://127.0.0.1:PORT", FRIEND, FRIEND.upper()]
FOREIGN_HOSTS = ["evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "@127.0.0.1"]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_pages_from_elsewhere_get_nothing(
    server: ServerChild, http: aiohttp.ClientSession, session: Message, origin: str
) -> None:
    await check_forbidden(http, session, {"Origin": origin.replace("PORT", port_of(server))})


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_names_that_were_pointed_here_get_nothing(
    server: ServerChild, http: aiohttp.ClientSession, session: Message, host: str
) -> None:
    host = host.replace("PORT", port_of(server))
    await check_forbidden(http, session, {"Host": host})
    await check_forbidden(http, session, {"Host": host, "Origin": f"http://{host}"})


async def check_body(answer: aiohttp.ClientResponse, code: str) -> None:
    if answer.method == "HEAD":
        return
    error = await answer.json()
    assert error["code"] == code
    assert ANN_KEY not in error["message"]


async def check_forbidden(
    http: aiohttp.ClientSession, session: Message, headers: dict[str, str]
) -> None:
    for method, path in all_routes():
        upgrade = UPGRADE if path == STREAM_PATH else {}
        answer = await http.request(
            method, filled(path, session), headers={**bearer(ANN_KEY), **upgrade, **headers}
        )
        assert answer.status == 403, (method, path)
        await check_body(answer, "forbidden")


@pytest.mark.parametrize("origin", OWN_ORIGINS)
async def test_own_pages_and_friends_connect(server: ServerChild, origin: str) -> None:
    talker = await Talker.connect(
        server.url, key=BEN_KEY, origin=origin.replace("PORT", port_of(server))
    )
    await talker.say("start")
    await talker.until("ready")
    assert await talker.finish() == []


@pytest.mark.parametrize("body", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_an_upgrade_with_a_body_is_refused(server: ServerChild, body: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port_of(server)))
    fields = {"Host": f"127.0.0.1:{port_of(server)}", **bearer(ANN_KEY), **UPGRADE}
    lines = [f"{name}: {value}" for name, value in fields.items()]
    request = "\r\n".join([f"GET {STREAM_PATH} HTTP/1.1", *lines, body, "", "hello"])
    writer.write(request.encode())
    assert b" 400 " in await reader.readline()
    writer.close()


# The page


async def test_the_page_and_its_files_are_fenced_in(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/static/app.js", "/static/style.css"):
        answer = await http.get(path)
        assert answer.status == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        policy = answer.headers["Content-Security-Policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
        assert rules["script-src"] == "'self'"
        assert "unsafe" not in policy
        assert "*" not in policy


async def test_the_page_has_nothing_that_its_policy_forbids(http: aiohttp.ClientSession) -> None:
    page = await (await http.get("/")).text()
    assert "<script>" not in page
    assert " style=" not in page
    assert " onclick=" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")


@pytest.mark.parametrize(
    "name",
    ["__init__.py", "..%2f..%2fserver%2fapp.py", "missing.js", ".js", "app.js%00"],
)
async def test_only_page_files_are_served(http: aiohttp.ClientSession, name: str) -> None:
    assert (await http.get(f"/static/{name}")).status == 404


async def test_every_answer_forbids_sniffing(http: aiohttp.ClientSession, session: Message) -> None:
    for method, path in [*all_routes(), ("GET", "/nowhere")]:
        if method in ("GET", "HEAD"):
            async with http.request(
                method, filled(path, session), headers=bearer(ANN_KEY)
            ) as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff", path
