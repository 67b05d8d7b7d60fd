"""The recipe of the speaker segmentation model, in the order in which data flows.

- ``people``: who may be heard in which split, and what they say.
- ``meetings``: excerpts of real meetings with their turns, split likewise.
- ``rooms``: what rooms, microphones and lines do to voices.
- ``mixes``: people → 10 s chunks in which it is known who speaks when.
- ``examples``: chunks → samples and frame labels.
- ``model``: shape and loss.
- ``train``: the loop.  ``export``: the folder that users load.
- ``judging``, ``report``: what it can do beside Silero VAD, measured.
"""

from server.engines.torch_setup import prepare_torch

prepare_torch(threads=None)
