"""The processes that train one model together, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Told = TypeVar("Told")


@dataclass(frozen=True)
class Ranks:
    """This process among ``size``; the first writes files and speaks. Alone, all of this needs no talking."""

    rank: int = 0
    size: int = 1

    @classmethod
    def now(cls) -> Ranks:
        """Of the process group as it is."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Of a batch, this rank's images. Raises ``ValueError`` where the ranks can't share evenly."""
        if batch_size % self.size:
            raise ValueError(
                f"batch size {batch_size} can't be shared by {self.size} ranks; give a multiple of {self.size}, for it "
                "is of all ranks together"
            )
        return batch_size // self.size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, make: Callable[[], Told]) -> Told:
        """What the first rank makes, on every rank; also the error that it meets."""
        if self.size == 1:
            return make()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = make()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        made: Told = told[0]
        return made

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, module: torch.nn.Module) -> None:
        """Give every rank the first one's buffers."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)


class Agreement:
    """A number of one rank that all receive a step later, without waiting: all act at the same step."""

    def __init__(self, ranks: Ranks) -> None:
        self._group: Any = dist.new_group(backend="gloo") if ranks.size > 1 else None
        self._flag = torch.zeros((), dtype=torch.int64)
        self._work: Any = None

    def next(self, number: int) -> int:
        """The largest ``number`` that a rank gave at the step before; alone, the one that is given."""
        if self._group is None:
            return number
        found = 0
        if self._work is not None:
            self._work.wait()
            found = int(self._flag)
        self._flag.fill_(max(number, found))
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return found

    def finish(self, number: int) -> int:
        """The largest of this step: where all come together anyway."""
        self.next(number)
        return self.next(number)

    def close(self) -> None:
        """Wait for what is on its way."""
        if self._work is not None:
            self._work.wait()
            self._work = None


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, the process group of ``torchrun``, if that started this process; of GPUs each rank has its own.

    Raises ``ValueError`` where there are more ranks than GPUs on a machine that has any.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if size == 1 or "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    gpus = torch.cuda.device_count()
    if gpus:
        if local >= gpus:
            told = f"rank {local} of this machine has no GPU of its own: there {'are' if gpus > 1 else 'is'} {gpus}"
            raise ValueError(f"{told}; give torchrun --nproc-per-node={gpus} at most")
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
