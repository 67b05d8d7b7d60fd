"""Trains a checkpoint of whisper-tiny's shape further, on what it was never taught.

    python -m tools.reference_whisper --minutes 60 --out build/reference-whisper

The reference checkpoint was trained without prompts, mostly on short clips. Servers that are
compared with it use both prompts and windows that grow to 30 s, so with it their captions are worse
than they need to be. In the order in which data flows:

- ``conversations``: windows of many utterances, and what was said before them.
- ``labels``: windows → decoder rows in Whisper's English tokens.
- ``checkpoint``: the folder that is read, and the one that is written in the same format.
- ``train``: the loss and the loop.  ``report``: what was gained, on held-out voices.
"""

from server.engines.torch_setup import prepare_torch

prepare_torch(threads=None)
