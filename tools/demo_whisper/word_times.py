"""Word starts as transformers gives them, held against the known ones; and which attention heads
tell them best.

The convention is that of ``generate(return_token_timestamps=True, return_timestamps=True)``: a
token's time is where dynamic time warping over the alignment heads first reaches the position at
which the token is fed back. Without timestamp tokens the first word would always start at 0.
"""

from collections.abc import Sequence

import jiwer
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from tools.demo_whisper.corpus import Clip
from tools.demo_whisper.decoding import plain
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, TimedWord

Head = tuple[int, int]  # decoder layer, head


def start_errors_s(
    whisper: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    clips: Sequence[Clip],
    heads: Sequence[Head] | None = None,
) -> list[float]:
    """Signed start errors (measured less true) of all words that were recognised."""
    errors: list[float] = []
    for clip in clips:
        heard = heard_words(whisper, processor, clip, heads)
        truth = [word for utterance in clip.utterances for word in utterance.words]
        errors += matched_errors_s(truth, heard)
    return errors


def heard_words(
    whisper: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    clip: Clip,
    heads: Sequence[Head] | None = None,
) -> list[TimedWord]:
    """Words with their starts, without ends, as ``generate`` finds them in one window."""
    inputs = processor(
        clip.samples,
        sampling_rate=SAMPLE_RATE_HZ,
        return_tensors="pt",
        return_attention_mask=True,
    )
    shipped = whisper.generation_config.alignment_heads
    whisper.generation_config.alignment_heads = [list(head) for head in heads or shipped]
    try:
        with torch.inference_mode():
            out = whisper.generate(
                inputs.input_features,
                attention_mask=inputs.attention_mask,
                language=clip.language,
                task="transcribe",
                return_timestamps=True,
                return_token_timestamps=True,
            )
    finally:
        whisper.generation_config.alignment_heads = shipped
    tokens, times_s = out["sequences"][0].tolist(), out["token_timestamps"][0].tolist()
    return _words(processor, tokens, times_s)


def _words(processor: WhisperProcessor, tokens: list[int], times_s: list[float]) -> list[TimedWord]:
    """A word begins at each text token that begins with a space."""
    first_control = processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    words: list[TimedWord] = []
    for token, time_s in zip(tokens, times_s, strict=True):
        if token >= first_control:
            continue
        piece = processor.tokenizer.decode([token])
        if piece.startswith(" ") or not words:
            words.append(TimedWord(piece.strip(), time_s, time_s))
        else:
            words[-1] = TimedWord(words[-1].text + piece, words[-1].start_s, words[-1].end_s)
    return words


def matched_errors_s(truth: Sequence[TimedWord], heard: Sequence[TimedWord]) -> list[float]:
    """Start errors of the words that an alignment of both texts finds equal."""
    if not truth or not heard:
        return []
    texts = ([" ".join(plain(word.text) for word in words)] for words in (truth, heard))
    errors = []
    for chunk in jiwer.process_words(*texts).alignments[0]:
        if chunk.type == "equal":
            pairs = zip(
                truth[chunk.ref_start_idx : chunk.ref_end_idx],
                heard[chunk.hyp_start_idx : chunk.hyp_end_idx],
                strict=True,
            )
            errors += [said.start_s - true.start_s for true, said in pairs]
    return errors
