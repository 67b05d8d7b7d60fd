"""The recipe of the demo checkpoint, in the order in which data flows.

- ``sentences``: the closed domain, as text.
- ``synthesis``: text → speech with word times (espeak-ng).
- ``noise``: sounds without words, rooms and lines.
- ``corpus``: clips of utterances; who may be heard in training.
- ``tokenizer``: the vocabulary, and clips → labels.
- ``batches``: clips and labels → tensors; the curriculum.
- ``model``: shape, training-only heads, loss.
- ``decoding``: greedy decoding at any context length, for validation and measurements.
- ``train``: the loop.  ``export``: the folder that users load.
- ``word_times``, ``report``: what it can do, measured.
"""

from server.engines.torch_setup import prepare_torch

prepare_torch(threads=None)
