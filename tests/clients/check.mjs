// What openai-node makes of the service: `check.mjs SCENARIO`; tests/clients.rs says which and checks
// what was paid. Ends with a stack trace when something is not as it should be.

import assert from "node:assert/strict";
import { createReadStream, readFileSync } from "node:fs";
import path from "node:path";

import OpenAI, { toFile } from "openai";

const { BASE_URL, API_KEY, DISABLED_KEY, PICTURES, JOB: job } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
const once = client.withOptions({ maxRetries: 0 });
const images = client.images;
// The stand-in's marker; what is paid is counted by it.
const JOB = `[stub job=${job}]`;
const model = "gpt-image-2";
const SIGNATURES = { png: "89504e470d0a1a0a", jpeg: "ffd8ff", webp: "52494646" };

const picture = (name) => path.join(PICTURES, name);

function checkBytes(base64, kind = "png") {
  assert.match(base64, /^[A-Za-z0-9+/]+=*$/);
  const head = Buffer.from(base64, "base64").toString("hex", 0, 16);
  assert(head.startsWith(SIGNATURES[kind]), head);
}

// So many pictures, all different and of that kind, and all that an ImagesResponse has.
function check(answer, count, kind = "png") {
  assert(answer.created > 1_700_000_000);
  assert.equal(answer.data.length, count);
  assert.equal(new Set(answer.data.map((image) => image.b64_json)).size, count);
  for (const image of answer.data) checkBytes(image.b64_json, kind);
  const { output_format, size, background, quality, usage } = answer;
  assert.deepEqual([output_format, size, background, quality], [kind, "64x64", "opaque", "auto"]);
  assert.equal(usage.total_tokens, 0);
  assert.equal(usage.input_tokens_details.text_tokens, 0);
  assert(answer._request_id, "X-Request-Id");
}

async function raises(kind, status, code, call, param = null) {
  try {
    await call();
  } catch (error) {
    assert.equal(error.constructor, kind, error);
    assert.deepEqual([error.status, error.code, error.param], [status, code, param], error);
    assert(error.requestID && error.type && error.message.includes(error.error.message), error);
    return;
  }
  assert.fail(`no ${kind.name}`);
}

const scenarios = {
  async generate() {
    check(await images.generate({ prompt: `one ${JOB}` }), 1);
    check(await images.generate({ prompt: `many ${JOB}`, model, n: 3, response_format: "b64_json" }), 3);
    check(await images.generate({ prompt: `converted ${JOB}`, model, output_format: "jpeg" }), 1, "jpeg");
    const answer = await images.generate({
      prompt: `as URL ${JOB}`,
      model: "dall-e-3",
      response_format: "url",
      n: 2,
    });
    const urls = answer.data.map((image) => image.url);
    assert.equal(new Set(urls).size, 2);
    for (const url of urls) {
      const reply = await fetch(url);
      assert.equal(reply.headers.get("content-type"), "image/png");
      checkBytes(Buffer.from(await reply.arrayBuffer()).toString("base64"));
    }
    const models = [];
    for await (const { id } of client.models.list()) models.push(id);
    assert(models.includes(model), models);
    assert.equal((await client.models.retrieve(model)).object, "model");
  },

  // One as a stream (chunked, without a length), one as a Blob, several in all packings with a mask.
  async edit() {
    const [red, blue] = [readFileSync(picture("red.png")), readFileSync(picture("blue.jpg"))];
    const stream = createReadStream(picture("red.png"));
    check(await images.edit({ image: stream, prompt: `a stream ${JOB}`, model }), 1);
    check(await images.edit({ image: [new Blob([red])], prompt: `a Blob ${JOB}`, n: 3 }), 3);
    const several = [
      await toFile(red, "red.png"),
      new File([blue], "bö\"b.webp", { type: "image/webp" }),
      createReadStream(picture("red.png")),
    ];
    const mask = createReadStream(picture("mask.png"));
    const answer = await images.edit({
      image: several,
      mask,
      prompt: `several ${JOB}`,
      quality: "auto",
      background: "opaque",
    });
    check(answer, 1);
    assert.deepEqual(answer.x_ignored, ["mask"]);
    const file = await toFile(red, "red.png");
    const linked = await images.edit({ image: file, prompt: `as URL ${JOB}`, response_format: "url" });
    assert.match(linked.data[0].url, /\/generated\//);
  },

  async stream() {
    const events = [];
    const generated = await images.generate({
      prompt: `streamed ${JOB}`,
      model,
      n: 3,
      stream: true,
      partial_images: 2,
    });
    for await (const event of generated) events.push(event);
    assert.deepEqual(events.map((event) => event.type), Array(3).fill("image_generation.completed"));
    assert.equal(new Set(events.map((event) => event.b64_json)).size, 3);
    const image = await toFile(readFileSync(picture("red.png")), "red.png");
    const edited = await images.edit({ image, prompt: `edited ${JOB}`, stream: true });
    for await (const event of edited) events.push(event);
    assert.equal(events[3].type, "image_edit.completed");
    for (const event of events) {
      checkBytes(event.b64_json);
      assert(event.created_at > 1_700_000_000);
      assert.deepEqual([event.size, event.output_format], ["64x64", "png"]);
      assert.equal(event.usage.total_tokens, 0);
    }
    const refused = await images.generate({ prompt: `[stub mode=refuse job=${job}]`, stream: true });
    await assert.rejects(Array.fromAsync(refused), (error) => {
      assert(error instanceof OpenAI.APIError, error);
      assert.deepEqual([error.code, error.type], ["model_refused", "image_generation_user_error"]);
      return error.message.includes("Sorry");
    });
  },

  // Those that no setting is needed for; none is worth a silent repetition.
  async errors() {
    const prompt = "a kite";
    const generate = (body, options) => () => images.generate({ prompt, ...body }, options);
    const asKey = (apiKey) => () => client.withOptions({ apiKey }).images.generate({ prompt });
    const edit = (bytes) => async () => images.edit({ image: await toFile(bytes, "a.png"), prompt });
    await raises(OpenAI.BadRequestError, 400, "invalid_value", generate({ size: "huge" }), "size");
    await raises(OpenAI.BadRequestError, 400, "invalid_value", generate({ n: 11 }), "n");
    const text = Buffer.from("no picture");
    await raises(OpenAI.BadRequestError, 400, "invalid_image", edit(text), "image");
    for (const [mode, code] of [["moderated", "moderation_blocked"], ["refuse", "model_refused"]]) {
      const declined = generate({ prompt: `a kite [stub mode=${mode} job=${job}]` });
      await raises(OpenAI.BadRequestError, 400, code, declined);
    }
    await raises(OpenAI.AuthenticationError, 401, "invalid_api_key", asKey("cimg_nobody"));
    await raises(OpenAI.PermissionDeniedError, 403, "api_key_disabled", asKey(DISABLED_KEY));
    const unknown = () => client.models.retrieve("gpt-4o");
    await raises(OpenAI.NotFoundError, 404, "model_not_found", unknown, "model");
    await raises(OpenAI.NotFoundError, 404, "not_found", () => client.files.list());
    await raises(OpenAI.APIError, 413, "request_too_large", edit(Buffer.alloc(4 << 20)));
    const options = { headers: { "Idempotency-Key": `one request ${JOB}` } };
    const first = await generate({ prompt: `the first ${JOB}` }, options)();
    const again = await generate({ prompt: `the first ${JOB}` }, options)();
    assert.deepEqual(first.data, again.data);
    const second = generate({ prompt: `the second ${JOB}` }, options);
    await raises(OpenAI.UnprocessableEntityError, 422, "idempotency_mismatch", second);
    const failed = generate({ prompt: "a kite [stub mode=image-500]" }, { maxRetries: 0 });
    await raises(OpenAI.InternalServerError, 502, "codex_error", failed);
  },

  // One is drawn, one waits, there is room for no more; and the patience is short.
  async busy() {
    for (const place of ["drawn", "waiting"]) {
      const late = () => once.images.generate({ prompt: `${place} ${JOB}` });
      await raises(OpenAI.InternalServerError, 504, "still_running", late);
    }
    const refused = () => once.images.generate({ prompt: `one too many ${JOB}` });
    await raises(OpenAI.InternalServerError, 503, "queue_full", refused);
  },

  // A 504 is repeated silently and joins its job.
  async patience() {
    const marker = `[stub job=${job} image_latency=3]`;
    check(await images.generate({ prompt: `slow ${marker}`, model }), 1);
  },

  // It comes back in hours: the silent repetitions are told not to bother.
  async quota() {
    for (const prompt of [`too much ${JOB}`, `still too much ${JOB}`]) {
      const refused = () => images.generate({ prompt });
      await raises(OpenAI.RateLimitError, 429, "quota_exceeded", refused);
    }
  },

  // A picture, whatever happens on the way.
  async one() {
    check(await images.generate({ prompt: `one ${JOB}`, model }), 1);
  },

  async one_edit() {
    const image = await toFile(readFileSync(picture("red.png")), "red.png");
    check(await images.edit({ image, prompt: `one ${JOB}`, model }), 1);
  },
};

await scenarios[process.argv[2]]();
