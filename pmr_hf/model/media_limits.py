"""Limits for reading one file, which may be a stranger's, and whether addresses are opened."""

from dataclasses import dataclass

from .media_values import UnreadableError


@dataclass(frozen=True)
class MediaLimits:
    """
    Limits for reading pictures, sound and video. They are checked before decoding, where a file states its size, and
    while decoding. A file past one of them is an [`~pmr_hf.model.media_values.UnreadableError`]. The limits are not
    saved with a processor.

    Args:
        pixels (`int`, *optional*, defaults to 100 million): most pixels of one picture. A larger JPEG file of one scan
            is decoded at a half, a quarter or an eighth of its size. (Pillow has a limit of its own,
            `PIL.Image.MAX_IMAGE_PIXELS`.)
        aspect_ratio (`float`, *optional*, defaults to 400): largest ratio of the longer to the shorter edge of one
            picture or frame. An image processor that brings the shorter edge to a size enlarges the longer one by as
            much.
        seconds (`float`, *optional*, defaults to one hour): longest sound.
        frame_pixels (`int`, *optional*, defaults to 36 million, 8K): most pixels of one frame of a video.
        frames (`int`, *optional*, defaults to one million): most frames of one video file.
        frame_bytes (`int`, *optional*, defaults to 1 GiB): most bytes of all frames that are taken from one video, as
            RGB.
        allow_urls (`bool`, *optional*, defaults to `False`): whether `http` and `https` addresses are opened.
        hosts (`tuple[str, ...]`, *optional*): hosts that may have a private or loopback address. All other hosts must
            have public addresses alone, also after a redirect.
        download_bytes (`int`, *optional*, defaults to 256 MiB): most bytes of one download.
        download_seconds (`float`, *optional*, defaults to one minute): longest time of one download with redirects.
    """

    pixels: int = 100_000_000
    aspect_ratio: float = 400
    seconds: float = 3600
    frame_pixels: int = 36_000_000
    frames: int = 1_000_000
    frame_bytes: int = 2**30
    allow_urls: bool = False
    hosts: tuple[str, ...] = ()
    download_bytes: int = 2**28
    download_seconds: float = 60

    def check(self, name: str, found: float, what: str) -> None:
        """Raise `UnreadableError` if `found` is above the limit `name`. `what` is the file, for the message."""
        most = getattr(self, name)
        if found > most:
            unit = "as its aspect ratio" if name == "aspect_ratio" else name.replace("_", " ")
            raise UnreadableError(
                f"{what} has {found:,.0f} {unit}, more than the limit of {most:,.0f}; if you trust "
                f"it, raise the limit: MediaLimits({name}=...)"
            )

    def check_picture(self, width: int, height: int, name: str, what: str) -> None:
        """Raise `UnreadableError` for a picture past the limit `name`, "pixels" or "frame_pixels", or too narrow."""
        self.check(name, width * height, what)
        if min(width, height) > 0:
            self.check("aspect_ratio", max(width, height) / min(width, height), what)


DEFAULT_LIMITS = MediaLimits()
