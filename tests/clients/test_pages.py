"""The talker's page and the audience's: what they share is the same, to the letter."""

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "clients" / "web"


def part(page: str, pattern: str) -> str:
    found = re.search(pattern, (PAGES / page).read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    "pattern",
    [
        r'<details id="reading".*?</details>',
        r'<div class="search".*?</div>',
        r'<span class="aside">Download</span>.*?</div>',
        r'<section id="captions".*?</section>.*?</main>',
    ],
)
def test_both_pages_have_the_same_controls(pattern: str) -> None:
    assert part("index.html", pattern) == part("view.html", pattern)
