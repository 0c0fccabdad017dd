"""Read a picture: decode it, turn it upright, put it on white if it is transparent, and bring it to 8 bits."""

import io
import math
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from .media_files import open_file
from .media_limits import DEFAULT_LIMITS, MediaLimits
from .media_values import UnreadableError, as_array, describe, reason_of


Turn = Image.Transpose

# How to turn a picture upright, by the orientation in its EXIF data (Exif 2.3, tag 0x0112)
UPRIGHT: dict[Any, Image.Transpose] = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}


# Formats that are not opened, since Pillow hands them to another program or library.
REFUSED = {"EPS", "WMF", "FPX", "MIC", "BUFR", "GRIB", "HDF5", "MPEG"}


def read_image(value: Any, limits: MediaLimits = DEFAULT_LIMITS) -> Image.Image:
    """
    Read a picture as a PIL image of any mode without transparency. It is turned upright as its EXIF data say;
    EXIF data that cannot be read are ignored. Transparent pictures are put on white.

    Args:
        value: a path, the bytes of an image file, `{"bytes", "path"}`, a PIL image, or an array (H, W), (H, W, C) or
            (C, H, W) with C of 1, 3 or 4: integers in 0..255, uint16 in 0..65535, or floats in [0, 1]. Four channels
            are red, green, blue and alpha.
        limits (`MediaLimits`, *optional*): the largest picture, and whether addresses are opened.

    Raises:
        UnreadableError: for anything else, for a picture without pixels, and for one past the limits.
    """
    if isinstance(value, (np.ndarray, torch.Tensor, list)):
        return _on_white(_image_of_array(as_array(value)))
    if isinstance(value, Image.Image):
        return _decode(value, value, limits)
    stream = open_file(value, limits)
    if stream is None:
        raise UnreadableError(f"{describe(value)} is not an image")
    with stream:
        return _decode(stream, value, limits)


def _decode(source: Image.Image | BinaryIO, value: Any, limits: MediaLimits) -> Image.Image:
    try:
        image = source if isinstance(source, Image.Image) else _open(source)
        _shrink(image, limits.pixels)
        limits.check_picture(*image.size, "pixels", describe(value))
        image.load()  # a file, or a PIL image that was opened and not read yet
        if 0 in image.size:
            raise UnreadableError(f"{describe(value)} has no pixels: its size is {image.width} x {image.height}")
        return _to_eight_bits(_upright(image))
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of any type for damaged files
        raise UnreadableError(f"{describe(value)} is not an image that can be read ({reason_of(error)})") from error


def _open(stream: BinaryIO) -> Image.Image:
    """Open a picture. Pillow refuses a JPEG or AVIF file with broken EXIF data, which is then opened without them."""
    Image.init()
    formats = sorted(Image.OPEN.keys() - REFUSED)
    try:
        return Image.open(stream, formats=formats)
    except Exception:
        stream.seek(0)
        head = stream.read(12)
        if not head.startswith(b"\xff\xd8") and head[4:] not in (b"ftypavif", b"ftypavis", b"ftypmif1"):
            raise
        # "Exif" is the name of a JPEG file's segment and of an AVIF file's item.
        return Image.open(io.BytesIO((head + stream.read()).replace(b"Exif", b"none")), formats=formats)


def _shrink(image: Image.Image, pixels: int) -> None:
    """Have a JPEG file of more than `pixels` in a single scan decoded at a half, a quarter or an eighth of its size."""
    wanted = math.sqrt(image.width * image.height / pixels)
    if wanted > 1 and isinstance(image, JpegImageFile) and image.tile and _has_one_scan(image):
        scale = next((scale for scale in (2, 4) if scale >= wanted), 8)
        image.draft(None, (image.width // scale, image.height // scale))


def _has_one_scan(image: JpegImageFile) -> bool:
    """
    Whether the first scan of a JPEG file holds the whole picture, which is then decoded row by row. Of other files,
    such as progressive ones, libjpeg keeps all pixels in memory at their full size.
    """
    # Pillow stops after the header of the first scan: its length (2 bytes), the number of components, 2 bytes for each
    # of them, and 3 bytes.
    length = 6 + 2 * image.layers
    image.fp.seek(max(image.fp.tell() - length, 0))
    header = image.fp.read(length)
    return header[:3] == bytes([0, length, image.layers]) and not image.info.get("progressive")


def _upright(image: Image.Image) -> Image.Image:
    """
    Turn a picture as its EXIF data say. `ImageOps.exif_transpose` does not serve here: it also writes the EXIF data
    anew, and fails if any part of them is broken.
    """
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF data raise errors of any type; the pixels are whole
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        turned.info.pop(key, None)  # they would turn the picture again
    return turned


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # more than 8 bits, which Pillow would clip at 255
        array, clear = np.array(image), image.info.get("transparency")
        deep = image.mode.startswith("I;16") or (image.mode == "I" and array.max() > 255 and array.min() >= 0)
        if isinstance(clear, int):  # a gray value that stands for transparency
            array[array == clear] = 65535 if deep else 255
        return _image_of_array(array.astype(np.uint16) if deep and array.max() < 2**16 else array)
    if image.mode == "LAB":  # Pillow converts it to RGB alone
        return image.convert("RGB")
    return _on_white(image)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _image_of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and _channels_first(*array.shape):
        array = array.transpose(1, 2, 0)
    shape = array.shape
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    numeric = array.dtype.kind in "uifb" and array.size > 0
    top = {"f": 1, "b": 1}.get(array.dtype.kind, 65535 if array.dtype == np.uint16 else 255)
    if not numeric or not (array.ndim == 2 or shape[2:] in ((3,), (4,))) or not 0 <= array.min() <= array.max() <= top:
        raise UnreadableError(
            f"an array of shape {shape} and type {array.dtype} is not an image: (H, W), (H, W, C) or (C, H, W) with 1, "
            "3 or 4 channels, of integers in 0..255, uint16 in 0..65535, or floats in [0, 1]"
        )
    return Image.fromarray((array * (255 / top)).round().astype(np.uint8))


def _channels_first(first: int, second: int, last: int) -> bool:
    # (3, H, 4) is RGB of width 4 rather than RGBA of height 3.
    return first in (1, 3) if last == 4 else last not in (1, 3) and first in (1, 3, 4)
