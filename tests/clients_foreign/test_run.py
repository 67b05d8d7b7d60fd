import json
from pathlib import Path

import pytest

from tests.clients_foreign import run
from tests.clients_foreign.run import Heard, Row, heard, row_of, speakers_share, table

REFERENCE = heard(["Hello,", "Ann.", "Hi", "Bob!"], ["S1", "S1", "S2", "S2"])
CLIENTS = run.clients("")


def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    found = tmp_path / "protocol" / "name"
    found.mkdir(parents=True)
    (found / "requirements.txt").write_text("thing==1.2\nother==3\n")
    return found


@pytest.mark.parametrize(
    ("words", "speakers", "is_miss"),
    [
        (["hello", "ann", "hi", "bob"], ["A", "A", "B", "B"], False),
        (["hello", "ann", "hi", "bob"], [1, 1, 0, 0], False),
        (["hello", "ann", "hi", "bob"], [], False),
        (["hello", "ann", "hi", "bob"], ["A", "A", "A", "A"], True),
        (["hello", "ann", "hi", "bob"], ["A", "B", "A", "B"], True),
        (["hello", "ann", "hi"], ["A", "A", "B"], True),
        (["hello", "hello", "ann", "hi", "bob"], ["A", "A", "A", "B", "B"], True),
        ([], [], True),
    ],
)
def test_a_client_must_get_the_same_words_and_people(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    speakers: list[object],
    is_miss: bool,
) -> None:
    row = row_of(folder(tmp_path, monkeypatch), heard(words, speakers), REFERENCE)
    assert row.is_miss is is_miss
    assert (row.client, row.version) == ("protocol/name", "1.2")


def test_case_and_punctuation_are_no_words() -> None:
    assert heard(["Well,", "-", "twenty-two!"], ["A", "B", "A"]) == Heard(
        ("well", "twenty", "two"), ("A", "A", "A")
    )


def test_one_label_for_two_people_stands_for_one() -> None:
    told = heard(["hello", "ann", "hi", "bob"], ["A", "A", "A", "B"])
    assert speakers_share(told, REFERENCE) == 0.75


def test_a_label_for_each_word_or_for_none() -> None:
    with pytest.raises(ValueError, match="2 words, 1 speakers"):
        heard(["a", "b"], ["A"])


def test_a_miss_is_seen_in_the_table() -> None:
    rows = [Row("one", "1", "3 of 3", "-", "ok"), Row("two", "2", "2 of 3", "-", "MISS")]
    assert [line.split()[-1] for line in table(rows).splitlines()] == ["verdict", "ok", "MISS"]


@pytest.mark.parametrize("client", CLIENTS, ids=run.name_of)
def test_every_client_is_pinned(client: Path) -> None:
    assert run.version_of(client)[0].isdigit()
    package = client / "package.json"
    if package.exists():
        versions = json.loads(package.read_text())["dependencies"].values()
    else:
        lines = (client / "requirements.txt").read_text().split()
        versions = [line.partition("==")[2] for line in lines]
    assert all(version and version[0].isdigit() for version in versions)
