"""What openai-python makes of the service: `check.py SCENARIO`; tests/clients.rs says which and checks
what was paid. Ends with a traceback when something is not as it should be."""

import base64
import contextlib
import io
import os
import sys
import time
import urllib.request
from pathlib import Path

import openai

client = openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])
once = client.with_options(max_retries=0)
images = client.images
PICTURES = Path(os.environ["PICTURES"])
# The stand-in's marker; what is paid is counted by it.
JOB = f"[stub job={os.environ['JOB']}]"
MODEL = "gpt-image-2"
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}


def check(answer, count, kind="png"):
    """So many pictures, all different and of that kind, and all that an ImagesResponse has."""
    assert answer.created > 1_700_000_000 and len(answer.data) == count, answer
    pictures = {base64.b64decode(image.b64_json, validate=True) for image in answer.data}
    assert len(pictures) == count
    for picture in pictures:
        assert picture.startswith(SIGNATURES[kind]), picture[:16]
    assert answer.output_format == kind and answer.size == "64x64", answer.size
    assert answer.background == "opaque" and answer.quality == "auto"
    assert answer.usage.total_tokens == 0 == answer.usage.input_tokens_details.text_tokens
    assert answer._request_id, "X-Request-Id"


@contextlib.contextmanager
def raises(kind, status, code, param=None):
    try:
        yield
    except openai.APIStatusError as error:
        assert type(error) is kind, repr(error)
        assert (error.status_code, error.code, error.param) == (status, code, param), repr(error)
        assert error.request_id and error.type and error.body["message"] in error.message, error.body
        return
    raise AssertionError(f"no {kind.__name__}")


def generate():
    check(images.generate(prompt=f"one {JOB}"), 1)
    check(images.generate(prompt=f"many {JOB}", model=MODEL, n=3, response_format="b64_json"), 3)
    check(images.generate(prompt=f"converted {JOB}", model=MODEL, output_format="jpeg"), 1, "jpeg")
    answer = images.generate(prompt=f"as URL {JOB}", model="dall-e-3", response_format="url", n=2)
    urls = [image.url for image in answer.data]
    assert len(set(urls)) == 2 and all(image.b64_json is None for image in answer.data), answer
    for url in urls:
        with urllib.request.urlopen(url) as picture:
            assert picture.headers["content-type"] == "image/png"
            assert picture.read().startswith(SIGNATURES["png"])
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).object == "model"


def edit():
    """One picture as a file, one as bytes, several in all packings with a mask."""
    red, blue, mask = (PICTURES / name for name in ("red.png", "blue.jpg", "mask.png"))
    with red.open("rb") as file:
        check(images.edit(prompt=f"a file {JOB}", image=file, model=MODEL), 1)
    check(images.edit(prompt=f"bytes {JOB}", image=[red.read_bytes()], n=3), 3)
    several = [red, io.BytesIO(blue.read_bytes()), ("bö\"b.webp", red.read_bytes(), "image/webp")]
    answer = images.edit(
        prompt=f"several {JOB}", image=several, mask=mask, quality="auto", background="opaque"
    )
    check(answer, 1)
    assert answer.x_ignored == ["mask"], answer.x_ignored
    with red.open("rb") as file:
        answer = images.edit(prompt=f"as URL {JOB}", image=file, response_format="url")
    assert "/generated/" in answer.data[0].url


def stream():
    events = list(
        images.generate(prompt=f"streamed {JOB}", model=MODEL, n=3, stream=True, partial_images=2)
    )
    assert [event.type for event in events] == ["image_generation.completed"] * 3, events
    assert len({event.b64_json for event in events}) == 3
    with (PICTURES / "red.png").open("rb") as file:
        events += images.edit(prompt=f"edited {JOB}", image=file, stream=True)
    assert events[3].type == "image_edit.completed"
    for event in events:
        assert base64.b64decode(event.b64_json).startswith(SIGNATURES["png"])
        assert event.created_at > 1_700_000_000 and event.size == "64x64", event
        assert event.usage.total_tokens == 0 and event.output_format == "png"
    try:
        list(images.generate(prompt=f"[stub mode=refuse job={os.environ['JOB']}]", stream=True))
    except openai.APIError as error:
        assert error.code == "model_refused" and error.type == "image_generation_user_error"
        assert "Sorry" in error.message, error.message
    else:
        raise AssertionError("a stream that ends in an error raises nothing")


def errors():
    """Those that no setting is needed for; none is worth a silent repetition."""
    with raises(openai.BadRequestError, 400, "invalid_value", "size"):
        images.generate(prompt="a kite", size="huge")
    with raises(openai.BadRequestError, 400, "invalid_value", "n"):
        images.generate(prompt="a kite", n=11)
    with raises(openai.BadRequestError, 400, "invalid_image", "image"):
        images.edit(prompt="a kite", image=b"no picture")
    for mode, code in (("moderated", "moderation_blocked"), ("refuse", "model_refused")):
        with raises(openai.BadRequestError, 400, code):
            images.generate(prompt=f"a kite [stub mode={mode} job={os.environ['JOB']}]")
    with raises(openai.AuthenticationError, 401, "invalid_api_key"):
        client.with_options(api_key="cimg_nobody").images.generate(prompt="a kite")
    with raises(openai.PermissionDeniedError, 403, "api_key_disabled"):
        client.with_options(api_key=os.environ["DISABLED_KEY"]).images.generate(prompt="a kite")
    with raises(openai.NotFoundError, 404, "model_not_found", "model"):
        client.models.retrieve("gpt-4o")
    with raises(openai.NotFoundError, 404, "not_found"):
        client.files.list()
    with raises(openai.APIStatusError, 413, "request_too_large"):
        images.edit(prompt="a kite", image=bytes(4 << 20))
    key = {"Idempotency-Key": f"one request {JOB}"}
    first = images.generate(prompt=f"the first {JOB}", extra_headers=key)
    again = images.generate(prompt=f"the first {JOB}", extra_headers=key)
    assert first.data == again.data
    with raises(openai.UnprocessableEntityError, 422, "idempotency_mismatch"):
        images.generate(prompt=f"the second {JOB}", extra_headers=key)
    with raises(openai.InternalServerError, 502, "codex_error"):
        once.images.generate(prompt="a kite [stub mode=image-500]")


def busy():
    """One is drawn, one waits, there is room for no more; and the patience is short."""
    for place in ("drawn", "waiting"):
        with raises(openai.InternalServerError, 504, "still_running"):
            once.images.generate(prompt=f"{place} {JOB}")
    with raises(openai.InternalServerError, 503, "queue_full"):
        once.images.generate(prompt=f"one too many {JOB}")


def patience():
    """A 504 is repeated silently and joins its job."""
    marker = f"[stub job={os.environ['JOB']} image_latency=3]"
    check(images.generate(prompt=f"slow {marker}", model=MODEL), 1)


def quota():
    """It comes back in hours: the silent repetitions are told not to bother."""
    begin = time.monotonic()
    with raises(openai.RateLimitError, 429, "quota_exceeded"):
        images.generate(prompt=f"too much {JOB}")
    with raises(openai.RateLimitError, 429, "quota_exceeded"):
        images.generate(prompt=f"still too much {JOB}")
    assert time.monotonic() - begin < 60


def one():
    """A picture, whatever happens on the way."""
    check(images.generate(prompt=f"one {JOB}", model=MODEL), 1)


def one_edit():
    check(images.edit(prompt=f"one {JOB}", model=MODEL, image=(PICTURES / "red.png").read_bytes()), 1)


SCENARIOS = [generate, edit, stream, errors, busy, patience, quota, one, one_edit]
{scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]]()
