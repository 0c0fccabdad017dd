"""Download a file from an address, within limits of size, time and hosts."""

import io
import ipaddress
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from urllib.parse import urlsplit

import httpx

from .media_limits import MediaLimits
from .media_values import UnreadableError


MOST_REDIRECTS = 5
BLOCK = 2**16  # bytes


def download(url: str, limits: MediaLimits) -> io.BytesIO:
    """
    Download a file into memory. Raises `UnreadableError` if URLs are not allowed, for a host that [`check_host`]
    refuses, for an answer past the limits, and if the download fails.
    """
    if not limits.allow_urls:
        raise UnreadableError(
            f"{url!r:.200} is an address, and addresses are not opened; download the file, or set `allow_urls=True`"
        )
    # In a thread, since a server can send its headers so slowly that no timeout of a single read ends it.
    pool = ThreadPoolExecutor(1)
    try:
        with httpx.Client(timeout=min(10, limits.download_seconds), trust_env=False) as client:
            return pool.submit(_fetch, client, url, limits).result(limits.download_seconds)
    except TookTooLong as error:
        raise UnreadableError(
            f"cannot download {url!r:.200} (it takes longer than {limits.download_seconds:g} seconds)"
        ) from error
    except UnreadableError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        raise UnreadableError(f"cannot download {url!r:.200} ({error or type(error).__name__})") from error
    finally:
        pool.shutdown(wait=False)


def _fetch(client: httpx.Client, url: str, limits: MediaLimits) -> io.BytesIO:
    end = time.monotonic() + limits.download_seconds
    for _ in range(MOST_REDIRECTS + 1):
        check_host(url, limits)
        with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if urlsplit(url).hostname not in limits.hosts:  # the host may have changed its IP address since the check
                check_public(response.extensions["network_stream"].get_extra_info("server_addr")[0], url)
            if response.next_request is not None:
                url = str(response.next_request.url)
                continue
            response.raise_for_status()
            what = f"the answer of {url!r:.200}"
            limits.check("download_bytes", int(response.headers.get("Content-Length", 0)), what)
            content = bytearray()
            for block in response.iter_bytes(BLOCK):
                content += block
                limits.check("download_bytes", len(content), what)
                if time.monotonic() > end:
                    raise TookTooLong
            return io.BytesIO(bytes(content))
    raise UnreadableError(f"cannot download {url!r:.200} (more than {MOST_REDIRECTS} redirects)")


def check_host(url: str, limits: MediaLimits) -> None:
    """
    Raise `UnreadableError` for a URL that is neither http nor https, or whose host has an IP address that is not
    public. Hosts in `limits.hosts` may have any IP address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnreadableError(f"{url!r:.200} is not an http address")
    if parts.hostname not in limits.hosts:
        for found in socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM):
            check_public(str(found[4][0]), url)


def check_public(address: str, url: str) -> None:
    """Raise `UnreadableError` for an IP address that is not public, such as a private, loopback or multicast one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    if not (mapped or found).is_global or found.is_multicast:
        raise UnreadableError(
            f"{url!r:.200} leads to {address}, which is no public address; name its host in `hosts` if you trust it"
        )
