"""through-nginx WHAT SITE: what callers do through a proxy, and what they see of it.

    references       an order with five references of nearly 10 MiB each; prints the job's end
    stranger         a large order without a key, of which only the head and a first byte are sent
    too-large BYTES  the head of an order of so many bytes, with a key
    events           an order that is drawn once its first event has come; prints the events' names
"""

import base64
import json
import socket
import struct
import sys
import urllib.request
import zlib
from os import urandom
from pathlib import Path
from urllib.parse import urlsplit

what, site = sys.argv[1:3]
key = Path("/root/key").read_text().strip()


def open_url(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(site + path, data, headers), timeout=100)


def reference(seed):
    """A PNG of a little less than 10 MiB: what is random cannot be made smaller."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width, height = 1900, 1835
    rows = b"".join(b"\0" + seed + urandom(3 * width - len(seed)) for _ in range(height))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")
    assert 10_400_000 < len(png) <= 10 * 1024 * 1024, len(png)
    return base64.b64encode(png).decode()


def answer_to_head(size, key, start=b""):
    """The answer to an order of which nothing but `start` follows the head."""
    to = urlsplit(site)
    connection = socket.create_connection((to.hostname, to.port or 80), timeout=100)
    head = f"POST {to.path}/v1/images/generate HTTP/1.1\r\nHost: {to.netloc}\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + start)
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return answer.decode()


match what:
    case "references":
        body = {"prompt": "make it night", "reference_images_base64": [reference(bytes([n])) for n in range(5)]}
        print(json.load(open_url("/v1/images/generate", body))["status"])
    case "stranger":
        print(answer_to_head(60_000_000, "cimg_" + "x" * 43, b"{"))
    case "too-large":
        print(answer_to_head(int(sys.argv[3]), key))
    case "events":
        job = json.load(open_url("/v1/images/jobs", {"prompt": "a red kite [fake wait]"}))["id"]
        for line in open_url(f"/v1/images/jobs/{job}/events"):
            if line.startswith(b"event: "):
                print(line.decode().removeprefix("event: ").strip())
                Path("/var/lib/codex-image-worker/home/go").touch()
