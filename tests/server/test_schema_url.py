"""Database URLs: what is refused, and what people are shown of one."""

import pytest

from server.schema import UnusableDatabase, checked_url, shown

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+asyncpg://me:{SECRET}@host:port/captiond",
        f"no url at all {SECRET}",
        "mysql://host/captiond",
        "sqlite+aiosqlite://",
        f"postgresql+asyncpg://me:{SECRET}@host",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UnusableDatabase) as refusal:
        checked_url(url)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+asyncpg://me:{SECRET}@host/captiond",
        f"postgresql+asyncpg://host/captiond?password={SECRET}",
        f"postgresql+asyncpg://me:{SECRET}@host:port/captiond",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    assert SECRET not in shown(url)


def test_the_rest_is_shown() -> None:
    assert "host/captiond" in shown(f"postgresql+asyncpg://me:{SECRET}@host/captiond?password=x")
