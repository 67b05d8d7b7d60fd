"""What holds for every test."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("captiond", deadline=None)
settings.load_profile("captiond")


@pytest.fixture(scope="module")
def torch_threads() -> Iterator[None]:
    """Engines set them for the whole process: other modules find them as they were."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
