"""Memory that runs out ends with a sentence; other errors stay what they are."""

import pytest
import torch

from rdlib.errors import InputError, memory_in_words


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
        ),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_memory_that_runs_out_is_said_in_words(error):
    with (
        pytest.raises(InputError, match="out of memory while training; take a smaller batch_size or image_size"),
        memory_in_words("training"),
    ):
        raise error


def test_an_allocation_that_is_really_too_large():
    with pytest.raises(InputError, match="out of memory while scoring"), memory_in_words("scoring"):
        torch.empty(2**50)


def test_another_runtime_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), memory_in_words("training"):
        raise RuntimeError("shapes do not fit")
