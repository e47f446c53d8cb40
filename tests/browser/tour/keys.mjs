// A key's life.

import assert from "node:assert/strict";

import { begins } from "../open.mjs";
import { call, submit, waitFor } from "./api.mjs";

// Leaves a key named "the tour's key" in `site.key`.
export async function keys(site) {
  await site.visit("Keys");
  const key = await create(site, "first name");
  await copies(site, key);
  await site.page.reload();
  await site.heading("Keys");
  assert(!(await site.page.content()).includes(key), "shown once");

  await waitFor(site, key, await submit(site, key, "made with the new key"), "succeeded");
  await rename(site, "first name", "the tour's key");
  await press(site, "the tour's key", "Disable");
  assert.equal((await call(site, key, "")).status, 403);
  await press(site, "the tour's key", "Enable");
  assert.equal((await call(site, key, "")).status, 200);
  site.key = key;
  await remove(site);
}

async function create(site, name) {
  const { page } = site;
  await page.getByLabel("Name of the new key").fill(name);
  await site.follow(page.getByRole("button", { name: "Create key" }));
  const key = (await page.locator("output#new-key").innerText()).match(/cimg_[\w-]+/)?.[0];
  assert(key, "a new key");
  assert(!page.url().includes(key));
  assert.equal(new URL(page.url()).pathname, new URL(`${site.admin}/keys`).pathname);
  await site.entry(name).waitFor();
  return key;
}

async function copies({ page, context, scripts, origin }, key) {
  const copy = page.getByRole("button", { name: "Copy" });
  if (!scripts) {
    assert.equal(await copy.filter({ visible: true }).count(), 0, "a button that does nothing");
    return;
  }
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin });
  await copy.click();
  await page.waitForFunction(
    async (expected) => (await navigator.clipboard.readText()) === expected,
    key,
  );
  // A browser keeps that interface from pages over plain HTTP, which is how many have it at home.
  await page.evaluate(async () => {
    await navigator.clipboard.writeText("something else");
    navigator.clipboard.writeText = () => Promise.reject(new Error("not here"));
  });
  await page.getByRole("button", { name: "Copied" }).click();
  const field = page.getByLabel("Name of the new key");
  await field.press("Control+V");
  assert.equal(await field.inputValue(), key);
}

async function rename(site, from, to) {
  const entry = site.entry(from);
  await entry.locator("summary", { hasText: "Rename" }).click();
  await entry.getByLabel("New name").fill(to);
  await site.follow(entry.getByRole("button", { name: "Save name" }));
  await site.notice();
  await site.entry(to).waitFor();
  assert.equal(await site.page.getByText(from, { exact: true }).count(), 0);
}

async function press(site, name, button) {
  await site.follow(site.entry(name).getByRole("button", { name: begins(button) }));
  await site.notice();
  await site.heading("Keys");
}

async function remove(site) {
  const { page } = site;
  const key = await create(site, "a short life");
  await waitFor(site, key, await submit(site, key, "outlives its key"), "succeeded");
  const ask = () =>
    site.follow(site.entry("a short life").getByRole("link", { name: begins("Delete") }));
  await ask();
  await site.heading("Delete this key?");
  await site.follow(page.getByRole("link", { name: "Cancel" }));
  assert.equal((await call(site, key, "")).status, 200);
  await ask();
  await site.follow(page.getByRole("button", { name: "Delete key" }));
  await site.heading("Keys");
  await site.notice();
  assert.equal((await call(site, key, "")).status, 401);
}
