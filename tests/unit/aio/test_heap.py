"""What is freed is taken again without the kernel's help."""

import ctypes
import subprocess
import sys

import pytest

from tests.support.daemon import clean_environment, unmeasured

_PROGRAM = """
import resource, sys
from tiered_store.aio.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    held = [bytes([number]) * 1048576 for number in range(32)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library keeps memory in its own way")
def test_buffers_are_taken_from_what_was_freed():
    found = {}
    for how in ("kept", "given back"):
        command = [sys.executable, "-c", _PROGRAM, how]
        said = subprocess.run(command, env=unmeasured(clean_environment()), capture_output=True, text=True, check=True)
        found[how] = int(said.stdout)
    assert found["given back"] > 4000  # half of the pages at least: else this test sees nothing
    assert found["kept"] < 400
