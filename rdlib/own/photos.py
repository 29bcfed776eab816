"""Photographs of any size: found in folders, read upright, fitted into the network's square, and maps brought back.

The rule of geometry (`GEOMETRY`): the longer side is resized to the square's side and the aspect ratio is kept; the
photograph lies in the top left corner; what remains of the square is the photograph mirrored at its own edge. Nothing
is stretched or cut off, photographs of one folder may differ in shape, and the mirrored part is removed from the map.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdlib import layouts, pictures
from rdlib.errors import InputError

GEOMETRY = "longer side to image_size, aspect ratio kept, top left, mirrored at the edge to a square"
SHORTEST = 16  # px in the square: one cell of the teacher's deepest feature map


# --- Files --------------------------------------------------------------------------------------------------------


def find(folder: Path, problems: list[str], leave_out: str = "", said: pictures.Said | None = None) -> list[Path]:
    """All images below a folder, in order of name, as `layouts.files_below` goes through it.

    leave_out: name of subfolders that are not entered
    problems: gets a sentence for a missing folder, and for each file that is no image or shares its name with another
    said: gets the notes that are passed over
    """
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; give an existing one")
    there = [p for p in layouts.files_below(folder) if leave_out not in p.relative_to(folder).parts[:-1]]
    return layouts.images_among(there, problems, {} if said is None else said)


def read(path: str | Path, said: pictures.Said | None = None) -> Image.Image:
    """RGB photograph, upright, as `pictures.read_image` reads it.

    raises: InputError naming the file if it is not there or cannot be decoded
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return pictures.read_image(Path(path), said)


def check_shape(name: str | Path, photo: tuple[int, int], size: int) -> None:
    """raises: InputError if a photograph (W, H) is too long and narrow for a square of `size` px"""
    if min(inside(photo, size)) < SHORTEST:
        raise InputError(
            f"{name}: {photo[0]}x{photo[1]} is too long and narrow, its shorter side would have fewer than {SHORTEST} px "
            f"at image_size={size}; crop it or raise image_size"
        )


# --- Geometry -----------------------------------------------------------------------------------------------------


def inside(photo: tuple[int, int], size: int) -> tuple[int, int]:
    """(w, h) in px of a photograph (W, H) within the square of `size` px."""
    scale = size / max(photo)
    return max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))


def to_square(image: Image.Image, size: int) -> NDArray:
    """RGB image of any shape -> (3, size, size) uint8"""
    width, height = inside(image.size, size)
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.pad(small, ((0, size - height), (0, size - width), (0, 0)), mode="symmetric").transpose(2, 0, 1)


def from_square(map: NDArray, photo: tuple[int, int]) -> NDArray:
    """Map of the square (size, size) float32 -> (H, W) float32, for a photograph (W, H)"""
    width, height = inside(photo, len(map))
    return np.asarray(Image.fromarray(np.ascontiguousarray(map[:height, :width])).resize(photo, Image.Resampling.BILINEAR))
