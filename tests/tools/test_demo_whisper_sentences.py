"""The closed domain: determinism, reserved sentences, size."""

from random import Random

import pytest

from tools.demo_whisper import sentences


@pytest.mark.parametrize("language", ["en", "de"])
def test_same_seed_same_sentences(language: str) -> None:
    first, second = Random(5), Random(5)
    for _ in range(50):
        assert sentences.draw(first, language) == sentences.draw(second, language)


def test_german_sentences_come_with_english_ones() -> None:
    rng = Random(1)
    english = set(sentences.spelled_words())
    for _ in range(200):
        sentence = sentences.draw(rng, "de")
        assert sentence.translation
        assert set(sentence.translation.split()) <= english


def test_sentences_are_cased_and_punctuated() -> None:
    rng = Random(2)
    for language in ("en", "de"):
        for _ in range(200):
            text = sentences.draw(rng, language).text
            assert text[0].isupper()
            assert text[-1] in ".?"


def test_reserved_sentences_are_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    unwanted = sentences.draw(Random(3), "en").text
    monkeypatch.setattr(
        sentences, "reserved_hashes", lambda: frozenset({sentences.text_hash(unwanted)})
    )
    assert sentences.draw(Random(3), "en").text != unwanted


def test_digit_strings_are_written_as_sentences() -> None:
    words = sentences.digit_string(Random(4), 5)
    assert len(words) == 5
    assert words[0][0].isupper()
    assert words[-1].endswith(".")


def test_a_name_is_respelled_where_its_second_spelling_is_given() -> None:
    text = "Thank you, Robert. Annas and Anna are in Paris, Susan."
    assert sentences.respelled(text, "Kubernetes, Laura, Robert") == text
    assert (
        sentences.respelled(text, "Annah, Kubernetes. Susann,")
        == "Thank you, Robert. Annas and Annah are in Paris, Susann."
    )


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_named_sentence_holds_a_name_with_two_spellings(language: str) -> None:
    rng = Random(6)
    for _ in range(30):
        text = sentences.draw_named(rng, language).text
        assert sentences.respelled(text, " ".join(sentences.SPELLINGS.values())) != text


def test_second_spellings_are_no_words_of_the_domain() -> None:
    words = sentences.said_in(" ".join(sentences.spelled_words()))
    assert set(sentences.SPELLINGS) <= words
    assert words.isdisjoint(sentences.SPELLINGS.values())
