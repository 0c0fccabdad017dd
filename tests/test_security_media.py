"""Files and addresses of strangers: they open nothing else, and cost no more than the limits."""

import io
import json
import os
import stat
import subprocess
import sys
import time
import wave
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from helpers.attack_media import ATTACKS
from helpers.local_server import serving
from helpers.media_files import write_video
from PIL import Image
from transformers import ViTImageProcessor

from pmr_hf import MediaLimits, MultimodalProcessor
from pmr_hf.model.media import UnreadableError, read_audio, read_frames, read_image
from pmr_hf.model.media_download import check_host, download


pytestmark = pytest.mark.usefixtures("limited")
HELPERS = Path(__file__).parent / "helpers"


class Server(BaseHTTPRequestHandler):
    """Answers as an attacker would, by the path of the address."""

    paths: list[str] = []

    def do_GET(self):
        self.paths.append(self.path)
        if self.path.startswith("/to="):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to="))
            self.end_headers()
            return
        if self.path == "/slow_headers":
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
            return
        self.send_response(200)
        lengths = {"/false_length": 10**18, "/short": 1000}
        if self.path in lengths:
            self.send_header("Content-Length", lengths[self.path])
        self.end_headers()
        try:
            while self.path in ("/endless", "/slow"):
                self.wfile.write(b"0" * (2**16 if self.path == "/endless" else 1))
                time.sleep(0 if self.path == "/endless" else 0.1)
            self.wfile.write(b"whole")
        except OSError:
            pass

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    """The address of a server on this machine, which counts as private."""
    with serving(Server) as address:
        yield address


NAMED = MediaLimits(allow_urls=True, hosts=("127.0.0.1",), download_bytes=10**6, download_seconds=1)


# ---- Files that name others ----


@pytest.mark.parametrize("read", [lambda value: read_audio(value, 8000), lambda value: read_frames(value, 2)])
@pytest.mark.parametrize("kind", ["hls", "hls of a file", "ffconcat", "sdp", "dash", "rtsp"])
@pytest.mark.parametrize("suffix", [None, ".m3u8", ".mp4", ".wav"])
def test_a_playlist_opens_nothing(server, tmp_path, read, kind, suffix):
    write_video(tmp_path / "other.mp4", np.zeros((4, 16, 16, 3), np.uint8), 4)
    other = tmp_path / "other.mp4"
    text = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{server}/segment.ts\n#EXT-X-ENDLIST\n",
        "hls of a file": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{other}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{other}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "dash": f'<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation id="1" bandwidth="1">'
        f"<BaseURL>{server}/dash</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "rtsp": f"[Reference]\nRef1={server}/rtsp\n",
    }[kind]
    value = text.encode()
    if suffix is not None:
        value = tmp_path / f"playlist{suffix}"
        value.write_text(text)
    Server.paths.clear()
    start = time.monotonic()
    with pytest.raises(UnreadableError):
        read(value)
    assert time.monotonic() - start < 2 and not Server.paths


def test_a_picture_starts_no_other_program(tmp_path, monkeypatch):
    """Pillow has Ghostscript read EPS files."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(UnreadableError, match="is not an image that can be read"):
        read_image(eps)
    assert not (tmp_path / "ran").exists()


def test_a_pipe_or_device_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero", tmp_path):
        with pytest.raises(UnreadableError, match="is not a regular file"):
            read_image(path)


# ---- Limits ----


def png(width, height, mode="1"):
    data = io.BytesIO()
    Image.new(mode, (width, height)).save(data, "png")
    return data.getvalue()


def test_a_picture_of_more_pixels_is_not_decoded():
    bomb = png(13_000, 13_000)
    assert len(bomb) < 100_000
    start = time.monotonic()
    with pytest.raises(UnreadableError, match=r"has 169,000,000 pixels, more than the limit of 100,000,000; if you"):
        read_image(bomb)
    with pytest.raises(UnreadableError, match="more than the limit"):
        read_image(Image.open(io.BytesIO(bomb)))
    assert time.monotonic() - start < 1
    with pytest.raises(UnreadableError, match="100 pixels, more than the limit of 99"):
        read_image(png(10, 10), MediaLimits(pixels=99))
    assert read_image(png(10, 10), MediaLimits(pixels=100)).size == (10, 10)


@pytest.mark.parametrize(("pixels", "size"), [(6400, 80), (6399, 40), (1600, 40), (400, 20), (100, 10)])
def test_a_large_jpeg_is_decoded_smaller(pixels, size):
    data = io.BytesIO()
    Image.effect_noise((80, 80), 9).save(data, "jpeg")
    assert read_image(data.getvalue(), MediaLimits(pixels=pixels)).size == (size, size)
    with pytest.raises(UnreadableError, match="more than the limit of 99"):
        read_image(data.getvalue(), MediaLimits(pixels=99))


@pytest.mark.parametrize("options", [{"progressive": True}, {"several scans": True}])
def test_a_jpeg_of_several_scans_is_not_decoded_smaller(options):
    """libjpeg keeps all pixels of such a file in memory at their full size."""
    data = io.BytesIO()
    several = options.pop("several scans", False)
    Image.new("RGB", (80, 80)).save(data, "jpeg", **options)
    content = bytearray(data.getvalue())
    if several:
        scan = content.index(b"\xff\xda")
        content[scan + 2 : scan + 14] = b"\x00\x08\x01\x01\x00\x00\x3f\x00"  # the first component alone, of three
    with pytest.raises(UnreadableError, match="has 6,400 pixels, more than the limit of 6,399"):
        read_image(bytes(content), MediaLimits(pixels=6399))


@pytest.mark.slow
def test_files_that_are_too_large_cost_little(tmp_path):
    command = [sys.executable, str(HELPERS / "attack_media.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: costs for name, *costs in map(json.loads, done.stdout.splitlines())}
    assert list(found) == list(ATTACKS)
    for name, (seconds, memory, error) in found.items():
        assert error is not None and error.startswith("UnreadableError: "), (name, error)
        assert seconds < 10, name
        assert memory < 600, name  # MiB; the largest download is 256


def wav(samples, rate):
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.zeros(samples, np.int16).tobytes())
    return data.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        wav(3700, 1),
        {"array": np.zeros(3700, np.float32), "sampling_rate": 1},
        {"bytes": wav(3700, 1), "path": "a.wav"},
    ],
)
def test_a_sound_that_is_too_long(value):
    start = time.monotonic()
    with pytest.raises(UnreadableError, match=r"has 3,700 seconds, more than the limit of 3,600"):
        read_audio(value, 16000)
    assert time.monotonic() - start < 1


def test_seconds_are_counted_while_decoding():
    """A header can state any length: here the sizes of both chunks are those of a stream, without an end."""
    streamed = bytearray(wav(16000, 8000))
    streamed[4:8] = streamed[40:44] = b"\xff\xff\xff\xff"
    with pytest.raises(UnreadableError, match="seconds, more than the limit of 1;"):
        read_audio(bytes(streamed), 8000, MediaLimits(seconds=1))
    assert len(read_audio(wav(16000, 8000), 8000, MediaLimits(seconds=2))) == 16000


def test_a_video_with_too_many_or_too_large_frames(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((8, 32, 16, 3), np.uint8), 8)
    found = read_frames(tmp_path / "a.mp4", 4, MediaLimits(frames=8, frame_pixels=512, frame_bytes=4 * 3 * 512))
    assert [frame.size for frame in found] == [(16, 32)] * 4
    for limits, message in [
        (MediaLimits(frames=7), "has 8 frames, more than the limit of 7"),
        (MediaLimits(frame_pixels=511), "has 512 frame pixels, more than the limit of 511"),
        (MediaLimits(frame_bytes=4 * 3 * 512 - 1), "has 6,144 frame bytes"),
    ]:
        with pytest.raises(UnreadableError, match=message):
            read_frames(tmp_path / "a.mp4", 4, limits)


@pytest.mark.parametrize("count", [10**9, 4097, 0, -1, 2.5, "8"])
def test_the_number_of_frames_has_a_bound(count):
    with pytest.raises(ValueError, match=r"Expected `num_frames` in 1\.\.4096"):
        MultimodalProcessor({"image": ViTImageProcessor()}, num_frames={"image": count})


# ---- Addresses ----


def test_an_address_is_opened_only_if_asked_for(server):
    Server.paths.clear()
    for address in (f"{server}/a.png", f"HTTP{server[4:]}/a.png"):
        with pytest.raises(UnreadableError, match="addresses are not opened; download the file"):
            read_image(address)
    with pytest.raises(UnreadableError, match=r"leads to 127\.0\.0\.1, which is no public address; name its host"):
        read_image(f"{server}/a.png", MediaLimits(allow_urls=True))
    assert not Server.paths
    assert download(f"{server}/a", NAMED).read() == b"whole"


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost/",
        "http://2130706433/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest",
        "http://192.168.0.1:8080/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http:///a",
    ],
)
def test_a_private_host_is_refused(address):
    with pytest.raises(UnreadableError, match=r"is no public address|is not an http address"):
        check_host(address, MediaLimits(allow_urls=True))


def test_each_redirect_is_checked_anew(server):
    assert download(f"{server}/to=/a", NAMED).read() == b"whole"
    Server.paths.clear()
    for target in (f"http://localhost:{server.rpartition(':')[2]}/secret", "file:///etc/passwd", "ftp://127.0.0.1/a"):
        with pytest.raises(UnreadableError, match=r"no public address|not an http address|cannot download"):
            download(f"{server}/to={target}", NAMED)
    assert "/secret" not in Server.paths
    with pytest.raises(UnreadableError, match="more than 5 redirects"):
        download(f"{server}/to=/to=/to=/to=/to=/to=/to=/a", NAMED)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("endless", "download bytes, more than the limit of 1,000,000"),
        ("false_length", "has 1,000,000,000,000,000,000 download bytes"),
        ("slow", "it takes longer than 1 seconds"),
        ("slow_headers", "it takes longer than 1 seconds"),
        ("short", "cannot download"),
    ],
)
def test_an_answer_without_end(server, path, message):
    start = time.monotonic()
    with pytest.raises(UnreadableError, match=message):
        download(f"{server}/{path}", NAMED)
    assert time.monotonic() - start < 5


def test_a_server_that_is_not_there():
    with pytest.raises(UnreadableError, match=r"cannot download .http://127\.0\.0\.1:9/"):
        download("http://127.0.0.1:9/", NAMED)


# ---- Damaged files of every format ----


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """A folder with a small file of every format that Pillow and PyAV open."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run([sys.executable, str(HELPERS / "every_media_file.py"), str(folder)], check=True, timeout=60)
    assert len(list(folder.iterdir())) > 80
    return folder


@pytest.mark.parametrize(
    ("first", "count"), [(0, 300), *(pytest.param(1000 * i, 1000, marks=pytest.mark.slow) for i in range(1, 6))]
)
def test_damaged_files_of_every_format(whole_files, first, count):
    """Each is read or unreadable: no other error, no signal, no 10 seconds and no gigabyte."""
    command = [sys.executable, str(HELPERS / "fuzz_media.py"), str(whole_files), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"signal {-done.returncode} at {lines[-1]}"
    results = [line for line in lines if len(line) == 5]
    assert len(results) == count
    assert not [line for line in results if line[4] is not None]
    assert max(seconds for _, _, seconds, _, _ in results) < 10
    assert max(mebibytes for _, _, _, mebibytes, _ in results) < 1024


def test_a_picture_that_is_too_narrow():
    """An image processor that brings the shorter edge to 224 pixels would make it 224 x 2,240,000."""
    with pytest.raises(UnreadableError, match="has 10,000 as its aspect ratio, more than the limit of 400"):
        read_image(png(1, 10_000))
    assert read_image(png(400, 1)).size == (400, 1)
    assert read_image(png(1, 10_000), MediaLimits(aspect_ratio=10_000)).size == (1, 10_000)
