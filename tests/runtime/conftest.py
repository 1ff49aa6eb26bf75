"""What captures steps, for tests that hold with the recorder and with CUDA graphs alike."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.runtime.runs import GraphKind, graph_kind

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as deterministic algorithms want it


@pytest.fixture(params=["recorder", "cuda"])
def graphs(request: pytest.FixtureRequest) -> Iterator[GraphKind]:
    """The recorder, and where there is a GPU, CUDA graphs, with algorithms that leave the same bits each time."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.use_deterministic_algorithms(request.param == "cuda")
    yield graph_kind(request.param)
    torch.use_deterministic_algorithms(False)
