"""glibc keeps what is freed, unless the user's own settings say otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from tinyohem.system.allocator import keep_freed_memory

kept = keep_freed_memory()

def work():
    for _ in range(20):
        torch.ones(10_000_000)

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**variables: str) -> tuple[int, int]:
    """Return what the function answered, and the page faults of 800 MB in 20 tensors after it."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=own | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return int(kept), int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
class TestGlibc:
    def test_a_tensor_as_large_as_one_before_causes_no_page_faults(self) -> None:
        kept, faults = run()
        assert kept
        if kept < 40_000_000:
            pytest.skip("this glibc maps tensors of that size all the same")
        assert faults < 30_000

    @pytest.mark.parametrize(
        "variable",
        [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.check=0"}],
    )
    def test_settings_of_the_users_own_stay(self, variable: dict[str, str]) -> None:
        kept, faults = run(**variable)
        assert not kept
        assert faults > 150_000
