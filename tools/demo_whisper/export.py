"""The folder that users load: float16 safetensors, configurations, tokenizer, feature extractor.

    python -m tools.demo_whisper.export --run RUN [--out server/assets/demo_whisper]

takes the checkpoint of a training run, measures which attention heads tell word starts best, and
writes the folder with them.
"""

import argparse
from pathlib import Path

import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from tools.demo_whisper import tokenizer as tokenizers
from tools.demo_whisper.batches import Batches
from tools.demo_whisper.corpus import ClipPlan, Corpus, Split
from tools.demo_whisper.model import FED_TOKEN_HEADS, Trainee, config, generation_config
from tools.demo_whisper.tokenizer import Labels, Wish

ASSETS = Path(__file__).resolve().parents[2] / "server" / "assets"
WEIGHTS_MAX_BYTES = 10_000_000
HEAD_CLIPS = 16
GOOD_ENOUGH = 0.95  # of the best head's share of attention inside the right span


def export(
    whisper: WhisperForConditionalGeneration,
    labels: Labels,
    folder: Path,
    alignment_heads: list[list[int]] | None = None,
) -> None:
    """Write ``whisper`` to ``folder`` as a hub checkpoint would be; it is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = WhisperForConditionalGeneration(config(labels))
    shipped.load_state_dict(whisper.state_dict())
    heads = alignment_heads or [list(head) for head in FED_TOKEN_HEADS]
    shipped.generation_config = generation_config(labels, heads)
    shipped.to(torch.float16).save_pretrained(folder)
    tokenizers.save(labels.tokenizer, folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    size_bytes = (folder / "model.safetensors").stat().st_size
    assert size_bytes <= WEIGHTS_MAX_BYTES, f"{size_bytes} bytes of weights are too many to ship"


@torch.inference_mode()
def measured_heads(trainee: Trainee, labels: Labels) -> list[list[int]]:
    """The alignment heads to ship: those that look most at where the token just fed is spoken.

    Measured with the true tokens on training voices; the held-out ones are for tests.
    """
    corpus = Corpus(Split.TRAIN, "alignment heads", None)
    clips = [corpus.clip(ClipPlan(6, 6, "en")) for _ in range(HEAD_CLIPS)]
    wishes = [Wish("en", timestamps=True)] * HEAD_CLIPS
    batch = Batches(corpus, labels).collate(clips, list(map(labels.of, clips, wishes)))
    _, attentions = trainee.decode(batch.ids, trainee.encode(batch.audio))
    frames = torch.arange(attentions[0].shape[-1])
    spans = batch.spans[:, :-1]
    inside = (frames >= spans[..., :1]) & (frames < spans[..., 1:])
    shares = {
        (layer, head): float((weights[:, head] * inside).sum(-1)[inside.any(-1)].mean())
        for layer, weights in enumerate(attentions)
        for head in range(weights.shape[1])
    }
    bound = GOOD_ENOUGH * max(shares.values())
    return [list(head) for head, share in shares.items() if share >= bound]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.demo_whisper.export")
    parser.add_argument("--run", type=Path, required=True, help="what train wrote")
    parser.add_argument("--out", type=Path, default=ASSETS / "demo_whisper")
    options = parser.parse_args()
    labels = Labels(tokenizers.build())
    trainee = Trainee(labels)
    held = torch.load(options.run / "checkpoint.pt", weights_only=True)
    trainee.load_state_dict(held["trainee"])
    heads = measured_heads(trainee.eval(), labels)
    export(trainee.whisper, labels, options.out, heads)
    print(f"{options.out}: step {held['step']}, alignment heads {heads}")


if __name__ == "__main__":
    main()
