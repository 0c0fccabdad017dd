"""Open the file of a picture, sound or video: the one place where a path, an address or bytes become a stream."""

import io
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO

from .media_download import download
from .media_limits import DEFAULT_LIMITS, MediaLimits
from .media_values import UnreadableError, describe


if TYPE_CHECKING:
    import av

# The file formats that FFmpeg may find in a stream. Playlists (hls, dash, concat, sdp, rtsp, image2) are not among
# them: they make it open other files and addresses.
FORMATS = (
    "aac,ac3,ac4,aiff,amr,amrnb,amrwb,ape,au,caf,dsf,dts,dtshd,eac3,flac,gsm,loas,mlp,mp3,mpc,mpc8,ogg,oma,qcp,qoa,sbc,shn,"
    "tak,truehd,tta,voc,w64,wav,wv,xwma,3gp,apng,asf,av1,avi,cavsvideo,dirac,dv,flv,gif,h261,h263,h264,hevc,ivf,live_flv,"
    "m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nsv,nut,nuv,obu,rm,vc1,vvc,webm,wtv,yuv4mpegpipe"
)


def open_file(value: Any, limits: MediaLimits = DEFAULT_LIMITS) -> BinaryIO | None:
    """
    Open a path, an address, bytes, a `BytesIO` or `{"bytes", "path"}` as a binary stream. Returns `None` for a value of
    another type. Raises `UnreadableError` if the file cannot be opened or downloaded, and for a path that is no regular
    file.
    """
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["bytes"] or value["path"]
    if isinstance(value, (bytes, bytearray)):
        return io.BytesIO(value)
    if isinstance(value, io.BytesIO):
        return io.BytesIO(value.getbuffer())  # from its beginning, and it stays open
    if isinstance(value, str) and value.lower().startswith(("http://", "https://")):
        return download(value, limits)
    if isinstance(value, (str, os.PathLike)):
        try:
            if not stat.S_ISREG(os.stat(value).st_mode):  # a pipe or a device may never end
                raise UnreadableError(f"{describe(value)} is not a regular file")
            return open(value, "rb")
        except UnreadableError:
            raise
        except (OSError, ValueError) as error:  # a path with a null character is a ValueError
            reason = getattr(error, "strerror", None) or error
            raise UnreadableError(f"cannot open {describe(value)} ({reason})") from error
    return None


def open_container(stream: BinaryIO) -> "av.container.InputContainer":
    """Open a stream with FFmpeg, which reads nothing but this stream. Raises an error of PyAV if it is no container."""
    import av  # slow to import, and only read media need it

    return av.open(stream, "r", options={"format_whitelist": FORMATS, "protocol_whitelist": "none"})
