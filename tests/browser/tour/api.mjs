// The service as its callers see it, beside the pages.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";

// Any request with a key.
export async function call({ base }, key, path, body) {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const method = body === undefined ? "GET" : "POST";
  return fetch(`${base}/v1/images/jobs${path}`, { method, headers, body: JSON.stringify(body) });
}

// A job under way; its id.
export async function submit(site, key, prompt) {
  const reply = await call(site, key, "", { prompt });
  assert.equal(reply.status, 202, await reply.clone().text());
  return (await reply.json()).id;
}

// Waits until the job has that status.
export async function waitFor(site, key, id, status) {
  const end = Date.now() + 30_000;
  for (;;) {
    const job = await (await call(site, key, `/${id}`)).json();
    if (job.status === status) return;
    assert(Date.now() < end, `${id} is ${job.status} and not ${status}`);
    await pause(50);
  }
}
