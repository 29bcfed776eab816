"""The error for everything a user can put right."""

import contextlib
import sys
from collections.abc import Iterator


class InputError(ValueError):
    """A parameter, a file or a folder is not usable; the message names it and the remedy.

    In a notebook it shows as that one sentence, without a traceback (IPython asks the exception how to show it).
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class DataError(InputError):
    """The data cannot be used as they are; the message names every file concerned and the remedy."""


@contextlib.contextmanager
def exit_in_words() -> Iterator[None]:
    """For programs: an InputError ends them with its sentence and exit code 1, without a traceback."""
    try:
        yield
    except InputError as error:
        sys.exit(str(error))


@contextlib.contextmanager
def memory_in_words(what: str) -> Iterator[None]:
    """Turns an allocation that failed into a sentence. what: what was being done

    raises: InputError instead of MemoryError, CUDA's OutOfMemoryError and the CPU allocator's RuntimeError
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # OutOfMemoryError of torch is a RuntimeError
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise InputError(
            f"out of memory while {what}; take a smaller batch_size or image_size, or run fewer at once; the last checkpoint is kept"
        ) from error
