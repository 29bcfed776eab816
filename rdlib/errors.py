"""The error for everything a user can mend."""


class InputError(ValueError):
    """A parameter, a file or a folder is not usable; the message names it and the mend.

    In a notebook it shows as that one sentence, without a traceback (IPython asks the exception how to show it).
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
