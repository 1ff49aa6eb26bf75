"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Images this small are no slower on one thread, most of all where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def double_precision(one_thread: None) -> Iterator[None]:
    """Values from a known seed that agree to the last few of float64's digits, whatever order they are added in."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def nothing_compiled_yet() -> Iterator[None]:
    """dynamo knows no code from other tests, and keeps none for them."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
