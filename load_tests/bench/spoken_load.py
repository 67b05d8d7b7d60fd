"""Streams of real voices at a captiond server: ``python -m load_tests.bench.spoken_load``.

A process of its own, so that the server's measurement holds none of it. Its first line says that
everything is made and the streams begin; its second is what became of them, as JSON.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence

import orjson
import uvloop

from clients.delays import quantiles
from load_tests.bench.rotated_speech import NoVoices, rotated
from load_tests.peers.captiond import CaptiondDialect
from load_tests.peers.probing import STAGGER_SECONDS
from load_tests.peers.talking import Heard, Talker

READY = "speaking"


async def speak(url: str, streams: int, seconds: float, seed: int) -> list[Heard]:
    """All of them, to the end. Raises: NoVoices."""
    base = "ws" + url.removeprefix("http").removeprefix("ws")
    talkers = [Talker(one, base, CaptiondDialect()) for one in rotated(seconds, streams, seed)]
    print(READY, flush=True)
    chance, began_s = random.Random(seed), time.monotonic()
    return await asyncio.gather(
        *(talker.talk(began_s + chance.uniform(0, STAGGER_SECONDS)) for talker in talkers)
    )


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status; streams that failed are told, not judged."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.bench.spoken_load")
    parser.add_argument("--url", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    try:
        heards = uvloop.run(speak(given.url, given.streams, given.seconds, given.seed))
    except NoVoices as missing:
        print(missing, file=sys.stderr)
        return 1
    failures = [heard.failure for heard in heards if heard.failure is not None]
    told = {
        "lateness_s": quantiles(s for heard in heards for s in heard.lateness_s),
        "packets": sum(len(heard.sent_s) for heard in heards),
        "failed": len(failures),
        "failures": sorted(set(failures))[:5],
    }
    print(orjson.dumps(told).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
