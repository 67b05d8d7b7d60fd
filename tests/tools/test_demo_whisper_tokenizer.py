"""The vocabulary in Whisper's layout, and the labels made of it."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from tools.demo_whisper import tokenizer as tokenizers
from tools.demo_whisper.corpus import Clip, Utterance
from tools.demo_whisper.sentences import draw
from tools.demo_whisper.synthesis import TimedWord
from tools.demo_whisper.tokenizer import Labels, Wish

WORDS = (TimedWord("Thank", 0.5, 0.8), TimedWord("you,", 0.8, 1.0), TimedWord("Anna.", 1.0, 1.4))
CLIP = Clip(np.zeros(64_000, np.float32), (Utterance(WORDS, 0.5, 1.4),), "en")
EMPTY = Clip(np.zeros(64_000, np.float32), (), None)


@pytest.fixture(scope="module")
def labels() -> Labels:
    return Labels(tokenizers.build())


def written(labels: Labels, clip: Clip, wish: Wish) -> str:
    ids = labels.of(clip, wish).ids
    return str(labels.tokenizer.decode(ids, decode_with_timestamps=True))


def test_layout_is_that_of_multilingual_whisper(labels: Labels) -> None:
    assert len(labels.tokenizer) <= tokenizers.TOKENS_MAX
    assert labels.start == labels.end + 1
    assert labels.id("en") == labels.start + 1
    assert labels.id("de") == labels.start + 3  # behind <|zh|>, as transformers assumes
    assert labels.no_timestamps == labels.no_speech + 1
    assert labels.first_timestamp == labels.tokenizer.all_special_ids[-1] + 1
    assert len(labels.tokenizer) == labels.first_timestamp + tokenizers.TIMESTAMP_COUNT
    assert labels.id("30.00") == len(labels.tokenizer) - 1


def test_text_round_trip(labels: Labels) -> None:
    rng = Random(1)
    texts = [draw(rng, language).text for language in ("en", "de") for _ in range(50)]
    for text in [*texts, "Kubernetes, naïve 42 €?"]:
        assert labels.tokenizer.decode(labels.text(text)) == " " + text


def test_words_of_the_domain_are_single_tokens(labels: Labels) -> None:
    assert [len(labels.text(word)) for word in ("Robert", "database", "müssen", "Seven")] == [1] * 4


def test_saved_tokenizer_is_the_same(labels: Labels, tmp_path: Path) -> None:
    tokenizers.save(labels.tokenizer, tmp_path)
    loaded = type(labels.tokenizer).from_pretrained(tmp_path)
    assert loaded.get_vocab() == labels.tokenizer.get_vocab()
    loaded.set_prefix_tokens(language="de", task="translate", predict_timestamps=True)
    names = loaded.convert_ids_to_tokens(loaded.prefix_tokens)
    assert names == ["<|startoftranscript|>", "<|de|>", "<|translate|>"]


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (
            Wish("en"),
            "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>"
            " Thank you, Anna.<|endoftext|>",
        ),
        (
            Wish("en", timestamps=True),
            "<|startoftranscript|><|en|><|transcribe|>"
            "<|0.50|> Thank you, Anna.<|1.40|><|endoftext|>",
        ),
        (
            Wish("en", prompt="Yes, I will."),
            "<|startofprev|> Yes, I will.<|startoftranscript|><|en|><|transcribe|>"
            "<|notimestamps|> Thank you, Anna.<|endoftext|>",
        ),
        (
            Wish("en", prompt="Yes, I will.", keywords=("Budget", "Annah")),
            "<|startofprev|> Budget, Annah Yes, I will.<|startoftranscript|><|en|><|transcribe|>"
            "<|notimestamps|> Thank you, Annah.<|endoftext|>",
        ),
    ],
)
def test_label(labels: Labels, wish: Wish, text: str) -> None:
    assert written(labels, CLIP, wish) == text


def test_silence_has_an_empty_label_and_the_no_speech_target(labels: Labels) -> None:
    label = labels.of(EMPTY, Wish("de"))
    assert label.ids[label.given_count :] == [labels.end]
    assert label.heard_token == labels.no_speech
    timed = labels.of(EMPTY, Wish("de", timestamps=True))
    assert timed.ids[timed.given_count :] == [labels.first_timestamp, labels.end]


def test_translation_replaces_the_words(labels: Labels) -> None:
    utterance = Utterance(
        (TimedWord("Vielen", 0, 0.4), TimedWord("Dank.", 0.4, 0.9)), 0, 0.9, "Thank you."
    )
    clip = Clip(EMPTY.samples, (utterance,), "de")
    label = labels.of(clip, Wish("de", translate=True))
    assert labels.tokenizer.decode(label.ids, skip_special_tokens=True) == " Thank you."
    assert all(aligned.span_s is None for aligned in label.tokens)


def test_every_word_token_knows_its_span(labels: Labels) -> None:
    label = labels.of(CLIP, Wish("en"))
    spans = [a.span_s for a in label.tokens[label.given_count :]]
    assert spans[0] == pytest.approx((0.5, 0.8))
    assert spans[-2] is not None  # the full stop sounds like the end of its word
    assert spans[-1] is None
    assert label.heard_token == labels.id("en")


def test_keywords_stand_before_what_is_left_of_a_long_prompt(labels: Labels) -> None:
    long = "Yes, I will. " * 200 + "No, I will."
    ids = labels.prompt(long.strip(), ("Annah", "Robert"))
    assert len(ids) == 1 + tokenizers.MAX_PROMPT_TOKENS
    text = labels.tokenizer.decode(ids[1:])
    assert text.startswith(" Annah, Robert")
    assert text.endswith(" No, I will.")


def test_a_translation_has_the_listed_spelling(labels: Labels) -> None:
    utterance = Utterance((TimedWord("Danke,", 0, 0.4),), 0, 0.9, "Thank you, Anna.")
    clip = Clip(EMPTY.samples, (utterance,), "de")
    label = labels.of(clip, Wish("de", translate=True, keywords=("Annah",)))
    assert labels.tokenizer.decode(label.ids[label.given_count : -1]) == " Thank you, Annah."
