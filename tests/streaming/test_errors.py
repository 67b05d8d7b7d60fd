"""Each error carries what the peer must be told."""

from collections.abc import Iterator

import pytest

from streaming import errors
from streaming.errors import CaptiondError, ClientError, Overloaded, ServerError


def concrete(base: type[CaptiondError] = CaptiondError) -> Iterator[type[CaptiondError]]:
    """All errors that can be raised: the leaves of the tree drawn in the module."""
    children = [child for child in base.__subclasses__() if child.__module__ == base.__module__]
    if not children:
        yield base
    for child in children:
        yield from concrete(child)


ERRORS = sorted(concrete(), key=lambda error: error.__name__)


def test_every_code_names_one_error() -> None:
    codes = [error.code for error in ERRORS]
    assert len(codes) == len(set(codes)) > 10


@pytest.mark.parametrize("error", ERRORS)
def test_close_codes_are_ones_that_a_server_may_send(error: type[CaptiondError]) -> None:
    assert error.close_code in {1009, 1011, 1012, 1013} or 4400 <= error.close_code < 4600
    assert 400 <= error.http_status < 600


@pytest.mark.parametrize("error", ERRORS)
def test_fault_and_status_agree(error: type[CaptiondError]) -> None:
    is_ours = issubclass(error, ServerError)
    assert is_ours != issubclass(error, ClientError)
    assert is_ours == (error.http_status >= 500)


@pytest.mark.parametrize("error", ERRORS)
def test_the_drawing_lists_every_error_with_its_codes(error: type[CaptiondError]) -> None:
    lines = [line.split() for line in (errors.__doc__ or "").splitlines()]
    (line,) = [words for words in lines if error.__name__ in words]
    assert line[-2:] == [error.code, str(error.close_code)]


def test_an_error_holds_its_message_and_when_to_come_back() -> None:
    error = Overloaded("no capacity; try again", retry_after_ms=3_000)
    assert (error.message, error.retry_after_ms) == (str(error), 3_000)
    assert CaptiondError("x").retry_after_ms is None
