"""Images and masks: any file of an image format to pixels at the run's resolution.

Strict: a file that does not decode is an error that names it. What a mask's values leave open is a remark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage
from torchvision.transforms import functional as TF

from rdlib.errors import DataError, InputError

HALF = 127  # of 255; a mask is anomalous above it, as in the official code (> 0.5)

Said = dict[str, list[Path]]  # what was passed over or decided -> the files it concerns, see `layouts.sentences`
Read = TypeVar("Read")


def read_image(path: Path, said: Said | None = None) -> Image.Image:
    """RGB image of any PNG, JPEG, BMP, TIFF or WebP, as `to_rgb` makes it.

    said: gets a remark if the file holds more than one page or frame
    raises: DataError naming the file if it cannot be decoded
    """
    return _read(path, to_rgb, said)


def read_mask(path: Path, said: Said | None = None) -> Image.Image:
    """8-bit grey mask, upright, as `to_mask` makes it; anomalous where it is above HALF.

    said: gets a remark if the file's values leave open what is anomalous, or if it holds more than one page or frame
    raises: DataError naming the file if it cannot be decoded
    """
    mask, doubt = _read(path, to_mask, said)
    if doubt and said is not None:
        said.setdefault(doubt, []).append(path)
    return mask


def _read(path: Path, convert: Callable[[Image.Image], Read], said: Said | None) -> Read:
    try:
        with Image.open(path) as image:
            # Never mapped into memory: Pillow 13 then reads a grey TIFF that is stored turned with the sides exchanged.
            image.filename = ""
            if said is not None and getattr(image, "n_frames", 1) > 1:
                said.setdefault("more than one page or frame, only the first is read", []).append(path)
            return convert(image)
    except Exception as error:  # a broken file can make Pillow's decoders raise nearly anything
        raise DataError(f"{path}: cannot be decoded ({error}); replace the file") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode, as a screen shows it: upright (EXIF), and black where it is transparent.

    16-bit grey is scaled to 8 bits (65535 -> 255).
    raises: InputError for floats and 32-bit integers, of which nothing says what is white
    """
    if image.mode in ("F", "I"):
        kind = "floating-point numbers" if image.mode == "F" else "signed or 32-bit integers"
        raise InputError(f"pixels are {kind}, and nothing says which is white; save the image with 8 or 16 bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        return Image.fromarray((np.asarray(upright).astype(np.int64) // 257).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, upright.convert("RGBA")).convert("RGB")
    return upright.convert("RGB")


def to_mask(image: Image.Image) -> tuple[Image.Image, str]:
    """8-bit grey mask of an image of any mode, upright; what is anomalous, its values say.

    Label numbers (one value beside 0, none above 31, or a palette's colours) are anomalous above 0 and become 0 or 255.
    Greys that reach white (above 223) stay as they are, so that edges grey from resizing, or the noise of JPEG, do not make a region grow.
    A file that is neither has a grey area, or no white: then what is brighter than half if anything is, else all above 0.

    returns: mask, and the remark if it is neither ("" if not)
    """
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(ImageOps.exif_transpose(image)).astype(float))
        white = 1 if image.mode == "F" and values.max() <= 1 else 255 if values.max() <= 255 else 65535
    else:  # of colours the brightest channel: grey would make 0 of the darkest blue
        colours, white = np.asarray(to_rgb(image)), 255
        values = colours.max(axis=2)
    grey = (np.clip(values, 0, white).astype(float) * 255 / white).astype(np.uint8)
    marked, most = values[values > 0], grey.max()
    numbered = image.mode.startswith("P") and bool(np.ptp(colours, axis=2).any())
    if most < 32 or marked.min() == marked.max() or numbered:
        return _black_or_white(values > 0), ""
    flat = (ndimage.minimum_filter(grey, 3) == ndimage.maximum_filter(grey, 3)) & (grey > 31) & (grey < 224)
    doubt = "neither black and white nor label numbers, anomalous is what is " if most < 224 or flat.any() else ""
    if most > HALF:
        return Image.fromarray(grey), doubt and doubt + "brighter than half"
    return _black_or_white(values > 0), doubt + "above 0"


def _black_or_white(region: NDArray) -> Image.Image:
    return Image.fromarray(np.where(region, 255, 0).astype(np.uint8))


def region_of(mask: Image.Image) -> NDArray:
    """(H, W) bool: where a mask of `read_mask` is anomalous."""
    return np.asarray(mask) > HALF


def resize(image: Image.Image, size: int, how: str) -> NDArray:
    """(C, size, size) uint8, C = 1 (grey) or 3. "antialias" is what torchvision's Resize does on PIL images (official code)."""
    if how == "antialias":
        return np.atleast_3d(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return TF.resize(TF.pil_to_tensor(image), [size, size], antialias=False).numpy()


def resize_mask(mask: Image.Image, size: int, rule: str) -> NDArray:
    """(size, size) bool; resized as the image, then > 0.5 ("over_half", official code), or any part of its region ("any")."""
    mask = mask if rule == "over_half" else _black_or_white(region_of(mask))
    values = np.asarray(mask.resize((size, size), Image.Resampling.BILINEAR))
    return values > (127 if rule == "over_half" else 0)


def pixel_hash(image: Image.Image | NDArray) -> str:
    """sha256 of the pixels and their shape, whatever the file's name or format."""
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
