"""
The readers of pictures, sound and video, from paths, URLs, bytes, arrays, PIL images and `datasets` features.

They are in `pictures.py`, `sound.py` and `video.py`. `media_files.py` opens the files, and `media_limits.py` says
what reading them may cost.
"""

from .media_limits import MediaLimits
from .media_values import UnreadableError, is_missing
from .pictures import read_image
from .sound import read_audio
from .video import evenly, read_frames


__all__ = ["MediaLimits", "UnreadableError", "evenly", "is_missing", "read_audio", "read_frames", "read_image"]
