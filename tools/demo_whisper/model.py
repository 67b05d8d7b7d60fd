"""The checkpoint's shape, its training-only heads, and its loss.

The exported model is an ordinary ``WhisperForConditionalGeneration``.  In training, three helps
are added that the export leaves out: a CTC head (letters) and a frame-wise word head on the
encoder, and cross-attention heads that are shown where each token is spoken (synthetic speech has
exact word times).
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tools.demo_whisper.batches import IGNORED, PHONEME_CLASSES, Batch, WordClasses
from tools.demo_whisper.tokenizer import SPOKEN_LANGUAGES, Labels

MEL_BINS = 80
WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
# (layer, head): where the coming token is spoken, which is what decoding needs, and where the
# token just fed was spoken, which is what transformers' token timestamps are read from.
NEXT_TOKEN_HEADS = ((1, 0), (2, 0))
FED_TOKEN_HEADS = ((0, 1), (1, 1), (2, 1))
CONTEXT_MARGIN_S = 2.0
"""Silence behind a window with which it is heard as in the padded 30 s; ``report`` measures it, and
captiond's engine reads it from the generation config."""
LEAN_ATTENTION = "demo_whisper_lean"
CTC_WEIGHT, FRAME_WEIGHT, PHONEME_WEIGHT, GUIDE_WEIGHT = 0.3, 0.4, 0.4, 0.25
PHONEME_LAYER = 2  # of the encoder; the layers behind it put words together


def config(labels: Labels) -> WhisperConfig:
    """4.7 million parameters: 9.4 MB in float16."""
    return WhisperConfig(
        vocab_size=len(labels.tokenizer),
        num_mel_bins=MEL_BINS,
        d_model=192,
        encoder_layers=5,
        encoder_attention_heads=3,
        encoder_ffn_dim=768,
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=512,
        max_source_positions=1500,
        max_target_positions=448,
        dropout=0.0,
        bos_token_id=labels.end,
        eos_token_id=labels.end,
        pad_token_id=labels.end,
        decoder_start_token_id=labels.start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def generation_config(labels: Labels, alignment_heads: list[list[int]]) -> GenerationConfig:
    """What ``generate`` needs to know; only the two languages it can tell apart are named."""
    silent = [labels.start, labels.id("startoflm"), labels.id("startofprev"), labels.no_speech]
    silent += [labels.id("translate"), labels.id("transcribe"), labels.no_timestamps]
    return GenerationConfig(
        alignment_heads=alignment_heads,
        # They look at the token that was just fed; captiond's engine reads this, transformers
        # takes it for granted.
        alignment_rows="fed",
        captiond_context_margin_s=CONTEXT_MARGIN_S,
        # Not <|endoftext|>, as in the hub's checkpoints: an empty answer is how this model says
        # "nothing".
        begin_suppress_tokens=labels.tokenizer.encode(" ", add_special_tokens=False),
        suppress_tokens=sorted(silent),
        bos_token_id=labels.end,
        eos_token_id=labels.end,
        pad_token_id=labels.end,
        decoder_start_token_id=labels.start,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": labels.id(code) for code in SPOKEN_LANGUAGES},
        task_to_id={"transcribe": labels.id("transcribe"), "translate": labels.id("translate")},
        no_timestamps_token_id=labels.no_timestamps,
        prev_sot_token_id=labels.id("startofprev"),
        max_initial_timestamp_index=None,  # speech may start anywhere in the window
        return_timestamps=False,
        max_length=448,
    )


def lean_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    **_options: object,
) -> tuple[Tensor, None]:
    """Unmasked attention, softmax in the tensors' own precision; (B, heads, T, head size) each.

    On CPU its backward pass in bfloat16 took half (T = 200) to three quarters (T = 1,500) of the
    time of ``scaled_dot_product_attention``; autocast would have the softmax in float32.
    """
    with torch.autocast("cpu", enabled=False):
        weights = torch.softmax(query @ key.transpose(2, 3), dim=-1)
        return (weights @ value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(LEAN_ATTENTION, lean_attention)


class LogMel(nn.Module):
    """(B, samples) → (B, 80, samples / 160): Whisper's features, for windows of any length."""

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        bank = mel_filter_bank(
            1 + WINDOW_SAMPLES // 2,
            MEL_BINS,
            0.0,
            8_000.0,
            16_000,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", torch.tensor(bank, dtype=torch.float32).T, persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(
            audio, WINDOW_SAMPLES, HOP_SAMPLES, window=self.window, return_complex=True
        )
        power = spectrum[..., :-1].abs() ** 2
        mel = (self.filters @ power).clamp(min=1e-10).log10()
        floored = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8)
        return (floored + 4) / 4


def encode(whisper: WhisperForConditionalGeneration, features: Tensor) -> Tensor:
    """(B, 80, 2 T) → (B, T, d_model): Whisper's encoder on as many frames as there are.

    The library's own forward takes 30 s only; the sinusoidal positions are simply cut.
    """
    encoder = whisper.model.encoder
    hidden = functional.gelu(encoder.conv1(features))
    hidden = functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    states: Tensor = encoder.layer_norm(hidden)
    return states


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars; ``total`` is what is minimised, the others are its unweighted parts."""

    total: Tensor
    text: Tensor
    ctc: Tensor
    frames: Tensor
    phonemes: Tensor
    guide: Tensor

    def values(self) -> list[float]:
        return [float(getattr(self, field.name).detach()) for field in fields(self)]


class Trainee(nn.Module):
    """The model with its training-only heads."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        shape = config(labels)
        # Eager attention in the decoder, whose weights are looked at.
        shape._attn_implementation = "eager"
        self.whisper = WhisperForConditionalGeneration(shape)
        lean = config(labels)
        lean._attn_implementation = LEAN_ATTENTION
        for layer in self.whisper.model.encoder.layers:
            layer.self_attn.config = lean
        classes = WordClasses()
        self.log_mel = LogMel()
        self.letters = nn.Linear(shape.d_model, classes.letter_count)
        self.words = nn.Linear(shape.d_model, classes.word_count)
        self.phonemes = nn.Linear(shape.d_model, PHONEME_CLASSES)
        self._attentions: list[Tensor] = []
        self._middle = torch.empty(0)
        for layer in self.whisper.model.decoder.layers:
            layer.encoder_attn.register_forward_hook(
                lambda _m, _i, out: self._attentions.append(out[1])
            )
        self.whisper.model.encoder.layers[PHONEME_LAYER].register_forward_hook(self._keep_middle)
        begin_large(self.whisper)

    def _keep_middle(self, _module: nn.Module, _inputs: object, out: Tensor) -> None:
        self._middle = out

    def encode(self, audio: Tensor) -> Tensor:
        """(B, samples) → (B, samples / 320, d_model)."""
        return encode(self.whisper, self.log_mel(audio))

    def decode(self, ids: Tensor, states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Hidden states (B, L, d_model), and per layer the cross-attention (B, heads, L, T)."""
        self.forget_attentions()
        out = self.whisper.model.decoder(
            input_ids=ids, encoder_hidden_states=states, use_cache=False
        )
        attentions = list(self._attentions)
        self.forget_attentions()
        return out.last_hidden_state, attentions

    def forget_attentions(self) -> None:
        """Drop the weights that the hooks have gathered."""
        self._attentions.clear()

    def forward(self, batch: Batch, states: Tensor | None = None) -> Losses:
        """``states`` are those of ``encode`` where the encoder learns nothing; the losses on it are
        then left out."""
        if states is not None:
            text, guide = self._written_losses(batch, states)
            none = torch.zeros(())
            return Losses(text + GUIDE_WEIGHT * guide, text, none, none, none, guide)
        states = self.encode(batch.audio)
        text, guide = self._written_losses(batch, states)
        ctc = ctc_loss(self.letters(states), batch.spelling)
        frames = frame_loss(self.words(states), batch.frame_words)
        phonemes = frame_loss(self.phonemes(self._middle), batch.frame_phonemes)
        total = text + CTC_WEIGHT * ctc + FRAME_WEIGHT * frames
        total = total + PHONEME_WEIGHT * phonemes + GUIDE_WEIGHT * guide
        return Losses(total, text, ctc, frames, phonemes, guide)

    def _written_losses(self, batch: Batch, states: Tensor) -> tuple[Tensor, Tensor]:
        """Of the next token, and of where it is heard."""
        wishes = len(batch.ids) // len(batch.audio)
        hidden, attentions = self.decode(batch.ids, states.repeat_interleave(wishes, dim=0))
        learned = batch.targets != IGNORED
        logits = self.whisper.proj_out(hidden[learned]).float()
        text = functional.cross_entropy(logits, batch.targets[learned])
        return text, guide_loss(attentions, batch.spans)


def begin_large(whisper: WhisperForConditionalGeneration) -> None:
    """Draw the weights as Glorot and He do.

    The library's standard deviation of 0.02 leaves the sound far fainter than its positions, and
    the first hundred steps go into making it louder.
    """
    for name, part in whisper.named_modules():
        if isinstance(part, nn.Linear) and name != "proj_out":
            nn.init.xavier_uniform_(part.weight)
        elif isinstance(part, nn.Conv1d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")


def frame_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of (B, T, classes) against (B, T), over the frames whose class is known."""
    known = truth != IGNORED
    return functional.cross_entropy(scores[known].float(), truth[known])


def ctc_loss(letters: Tensor, spelling: list[Tensor]) -> Tensor:
    """CTC of (B, T, letters), per letter; class 0 is the blank."""
    scores = letters.float().log_softmax(-1).transpose(0, 1)
    lengths = torch.tensor([len(word) for word in spelling])
    frames = torch.full((len(spelling),), letters.shape[1])
    # The library's own mean divides per clip, so that a clip without a word would outweigh all
    # others.
    surprise = functional.ctc_loss(
        scores, torch.cat(spelling), frames, lengths, reduction="sum", zero_infinity=True
    )
    return surprise / lengths.sum().clamp(min=1)


def guide_loss(attentions: list[Tensor], spans: Tensor) -> Tensor:
    """Cross-entropy between chosen heads and the frames of their token, evenly weighted."""
    frames = attentions[0].shape[-1]
    at = torch.arange(frames)
    inside = (at >= spans[..., :1]) & (at < spans[..., 1:])  # (B, L + 1, T)
    target = inside / inside.sum(-1, keepdim=True).clamp(min=1)
    known = inside.any(-1)
    total = torch.zeros(())
    for heads, part in ((NEXT_TOKEN_HEADS, slice(1, None)), (FED_TOKEN_HEADS, slice(None, -1))):
        for layer, head in heads:
            weights = attentions[layer][:, head].float().clamp(min=1e-6)
            surprise = -(target[:, part] * weights.log()).sum(-1)[known[:, part]]
            total = total + (surprise.mean() if len(surprise) else 0.0)
    return total / (len(NEXT_TOKEN_HEADS) + len(FED_TOKEN_HEADS))
