"""Small CTC checkpoints with random weights, in the layout of published ones."""

import json
from pathlib import Path
from typing import Any

from server.engines.torch_setup import prepare_torch

VOCABULARY = ("<pad>", "<unk>", "|", *"ABCDEFGH")
_CONFIGS = {
    "data2vec-audio": "Data2VecAudioConfig",
    "hubert": "HubertConfig",
    "unispeech": "UniSpeechConfig",
    "unispeech-sat": "UniSpeechSatConfig",
    "wav2vec2": "Wav2Vec2Config",
    "wav2vec2-bert": "Wav2Vec2BertConfig",
    "wav2vec2-conformer": "Wav2Vec2ConformerConfig",
    "wavlm": "WavLMConfig",
}
_SIZE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
_WAVE: dict[str, Any] = {
    "conv_dim": (16,) * 7,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def build_ctc(folder: Path, family: str = "wav2vec2", **options: Any) -> Path:
    """Outputs vary from frame to frame and seldom are ``<unk>``; ``options`` go to the config."""
    prepare_torch(None)
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    is_mel = family == "wav2vec2-bert"
    size = _SIZE | ({} if is_mel else _WAVE)
    if family == "data2vec-audio":  # its positions come from five convolutions of fixed size
        size = {k: v for k, v in size.items() if "pos_embedding" not in k}
    torch.manual_seed(1)
    config = getattr(transformers, _CONFIGS[family])(**(size | options))
    model = transformers.AutoModelForCTC.from_config(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
        model.lm_head.bias[1] = -1_000
    model.save_pretrained(folder)
    save_tokenizer(folder)
    if is_mel:
        features = transformers.SeamlessM4TFeatureExtractor()
    else:
        is_masked = config.feat_extract_norm == "layer"
        features = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=is_masked)
    features.save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, vocabulary: tuple[str, ...] = VOCABULARY, **options: Any) -> Any:
    """Writes a CTC tokenizer, and gives it."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}))
    # They would be added beyond the model's outputs.
    options = {"bos_token": None, "eos_token": None} | options
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>", **options
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
