"""What a step frees is there for the next one, without the kernel."""

import ctypes
import subprocess
import sys

import pytest

from lowmode_fx.utils.allocator import keep_freed_memory

#: Faults of pages while 100 MB are written for the twentieth time, when the heap has settled, in a process of its own:
#: the setting stays.
SCRIPT = """
import resource, sys, torch
from lowmode_fx.utils.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_memory_that_a_step_frees_costs_the_next_one_nothing():
    def faults(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert faults("leave") > 20 * max(1, faults("keep"))


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


def test_a_system_without_one_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: len(name))  # Windows: no library without a name
    assert not keep_freed_memory()
