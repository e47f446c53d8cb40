"""A scripted Codex that speaks the app-server protocol, as far as the service asks for it.

It draws a picture of its own for each turn. Words in the prompt change that:

    [fake sleep=S]   S seconds before the picture is paid for
    [fake wait]      it is not paid for before there is a file $HOME/go
    [fake fail]      the turn ends without a picture
    [fake listen]    it tries to listen on a port of the kernel's choice; $HOME/listen.log has the error

`login` signs in without asking.

A payment is one line in $HOME/payments.log. What it was given by way of environment is in
$HOME/environment.log.
"""

import base64
import json
import os
import re
import socket
import struct
import sys
import threading
import time
import uuid
import zlib
from pathlib import Path

HOME = Path(os.environ.get("HOME", "/"))
CODEX_HOME = Path(os.environ.get("CODEX_HOME", HOME))
lock = threading.Lock()
interrupted = set()


def say(**message):
    with lock:
        print(json.dumps(message), flush=True)


def picture():
    """A PNG of 64 by 64 pixels that nobody has seen before."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + os.urandom(64 * 3) for _ in range(64))
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def draw(thread, turn, prompt):
    words = dict(w.partition("=")[::2] for m in re.findall(r"\[fake ([^\]]*)\]", prompt) for w in m.split())
    about = {"threadId": thread, "turnId": turn}
    end = {"id": turn, "status": "completed", "error": None}
    item = {"type": "imageGeneration", "id": f"exec-{uuid.uuid4()}", "status": "in_progress"}
    say(method="item/started", params=about | {"item": item})
    until = time.monotonic() + float(words.get("sleep", 0))
    held = "wait" in words
    while (time.monotonic() < until or held and not (HOME / "go").exists()) and turn not in interrupted:
        time.sleep(0.02)
    if "listen" in words:
        try:
            socket.socket().listen()
        except OSError as error:
            (HOME / "listen.log").write_text(error.strerror)
    if turn in interrupted:
        end["status"] = "interrupted"
    elif "fail" in words:
        end |= {"status": "failed", "error": {"message": "the fake fails", "codexErrorInfo": None}}
    else:
        path = CODEX_HOME / "generated_images" / thread / "x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = CODEX_HOME / f"made-{turn}"
        made.write_bytes(picture())
        # Next to no time in between: a kill shall not meet a picture that is paid for and not there.
        with lock, open(HOME / "payments.log", "a") as log:
            log.write(f"{thread}\n")
            log.flush()
            made.rename(path)
        item |= {"status": "completed", "result": "", "savedPath": str(path), "failure": None}
        say(method="item/completed", params=about | {"item": item})
    say(method="turn/completed", params=about | {"turn": end})


def renew():
    """The session is extended by ten days, as OpenAI would."""
    file = CODEX_HOME / "auth.json"
    auth = json.loads(file.read_text())
    head, claims, signature = auth["tokens"]["access_token"].split(".")
    claims = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"exp": int(time.time()) + 864000}
    claims = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    auth["tokens"]["access_token"] = ".".join([head, claims, signature])
    file.write_text(json.dumps(auth))


def answer(method, params):
    match method:
        case "account/read":
            if (params or {}).get("refreshToken"):
                renew()
            return {"account": {"type": "chatgpt", "planType": "plus"}}
        case "account/rateLimits/read":
            window = {"usedPercent": 1, "windowDurationMins": 300, "resetsAt": int(time.time()) + 9000}
            return {"rateLimits": {"limitId": "codex", "primary": window, "secondary": None}}
        case "thread/start":
            return {"thread": {"id": str(uuid.uuid4())}}
        case "turn/start":
            turn = str(uuid.uuid4())
            text = " ".join(part.get("text", "") for part in params["input"])
            # After the answer, which names the turn.
            threading.Timer(0.01, draw, (params["threadId"], turn, text)).start()
            return {"turn": {"id": turn}}
        case "turn/interrupt":
            interrupted.add(params["turnId"])
            return {}
        case "thread/loaded/list":
            return {"data": []}
    return {}


def app_server():
    with open(HOME / "environment.log", "a") as log:
        log.write("".join(f"{name}={value}\n" for name, value in sorted(os.environ.items())))
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            say(id=message["id"], result=answer(message["method"], message.get("params")))
    os._exit(0)  # standard input has ended: nobody listens any more


if "--version" in sys.argv:
    print("codex-cli 0.169.0")
elif "app-server" in sys.argv:
    app_server()
elif "login" in sys.argv:
    tokens = {"access_token": "a.e30.c", "refresh_token": "secret-refresh", "id_token": "a.e30.c"}
    (CODEX_HOME / "auth.json").write_text(json.dumps({"auth_mode": "chatgpt", "tokens": tokens}))
    (CODEX_HOME / "auth.json").chmod(0o600)
else:
    sys.exit(f"the fake Codex speaks app-server and login alone, not {sys.argv[1:]}")
