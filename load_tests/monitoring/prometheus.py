"""A real Prometheus for a test: its configuration, its process, its HTTP API."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from load_tests.faults.victim import free_port

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.25
LOG_CHARACTERS_MAX = 2_000
PROGRAMS = ("prometheus", "promtool")


class PrometheusFailed(Exception):
    """It did not start, or refused a query; the message says why."""


def missing_programs() -> list[str]:
    """Of Debian's package ``prometheus``."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of an answer."""

    labels: dict[str, str]
    values: list[tuple[float, float]]
    """Unix time and value; one for an instant query."""

    @property
    def value(self) -> float:
        """The newest one."""
        return self.values[-1][1]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs."""

    url: str
    http: aiohttp.ClientSession

    async def query(self, expression: str) -> list[Series]:
        """At this moment. Raises: PrometheusFailed."""
        answer = await self._ask("query", query=expression)
        if answer["resultType"] == "scalar":
            at, value = answer["result"]
            return [Series({}, [(float(at), float(value))])]
        return [
            Series(line["metric"], [(float(line["value"][0]), float(line["value"][1]))])
            for line in answer["result"]
        ]

    async def query_range(
        self, expression: str, start_s: float, end_s: float, step_s: float
    ) -> list[Series]:
        """Over a time. Raises: PrometheusFailed."""
        answer = await self._ask(
            "query_range", query=expression, start=start_s, end=end_s, step=step_s
        )
        return [
            Series(line["metric"], [(float(at), float(value)) for at, value in line["values"]])
            for line in answer["result"]
        ]

    async def value(self, expression: str) -> float | None:
        """Of a query that has one answer, or none."""
        found = await self.query(expression)
        return found[0].value if found else None

    async def until(self, expression: str, seconds_max: float, *, is_there: bool = True) -> float:
        """Seconds until the query has an answer, or has none. Raises: TimeoutError."""
        began_s = time.monotonic()
        async with asyncio.timeout(seconds_max):
            # Prometheus tells nobody of news.
            while bool(await self.query(expression)) is not is_there:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
        return time.monotonic() - began_s

    async def _ask(self, kind: str, **parameters: Any) -> dict[str, Any]:
        data = {name: str(value) for name, value in parameters.items()}
        async with self.http.post(f"{self.url}/api/v1/{kind}", data=data) as answer:
            body = await answer.json()
        if body["status"] != "success":
            raise PrometheusFailed(f"{data['query']}: {body['error']}")
        found: dict[str, Any] = body["data"]
        return found


def configuration(server_url: str, rule_files: list[Path], scrape_s: float) -> str:
    """As deploy/prometheus/prometheus.yml, with other times and one server."""
    interval = f"{round(scrape_s * 1000)}ms"
    text: str = yaml.safe_dump(
        {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": [
                {
                    "job_name": "captiond",
                    "static_configs": [{"targets": [urlsplit(server_url).netloc]}],
                }
            ],
        }
    )
    return text


@contextlib.asynccontextmanager
async def running_prometheus(config: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Raises: PrometheusFailed."""
    path, log_path = folder / "prometheus.yml", folder / "prometheus.log"
    path.write_text(config)
    url = f"http://127.0.0.1:{free_port()}"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={urlsplit(url).netloc}",
            "--log.level=warn",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession(trust_env=False) as http:
            await _until_ready(url, http, process, log_path)
            yield Prometheus(url, http)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)


async def _until_ready(
    url: str, http: aiohttp.ClientSession, process: asyncio.subprocess.Process, log_path: Path
) -> None:
    give_up_s = time.monotonic() + READY_SECONDS_MAX
    while process.returncode is None and time.monotonic() < give_up_s:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with http.get(f"{url}/-/ready") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(POLL_SECONDS)
    raise PrometheusFailed(f"Prometheus did not start:\n{_end_of(log_path)}")


def _end_of(log_path: Path) -> str:
    return log_path.read_text(errors="replace")[-LOG_CHARACTERS_MAX:]
