// Jobs that were: the list, one of them, and their pictures.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

import { submit, waitFor } from "./api.mjs";
import { PROMPT, loaded } from "./try-out.mjs";

// So many jobs of the history are called "seed" and a number.
const SEEDS = Number(process.env.SEEDS);

// The ids of the jobs that are listed, in order.
async function listed({ page }) {
  const links = await page.locator("main a[href*='/admin/requests/']").all();
  const hrefs = await Promise.all(links.map((link) => link.getAttribute("href")));
  const ids = hrefs.map((href) => href.match(/\/admin\/requests\/([\w-]+)$/)?.[1]);
  return [...new Set(ids.filter((id) => id !== undefined && id !== "export"))];
}

async function search(site, words) {
  await site.page.getByLabel("Search").fill(words);
  await apply(site);
}

const apply = (site) => site.follow(site.page.getByRole("button", { name: "Apply" }));

export async function history(site) {
  await site.visit("History");
  await times(site);
  await search(site, PROMPT);
  assert.equal((await listed(site)).length, 1);
  await filters(site);
  await pages(site);
  await exports(site);
  await search(site, "nobody asked for this");
  assert.deepEqual(await listed(site), []);
  await site.heading("History");
}

// Local to the browser, whose zone and language open.mjs sets; UTC without scripts and on demand.
async function times({ page, scripts }) {
  const time = page.locator("main time").first();
  const title = await time.getAttribute("title");
  const utc = title.match(/^(\d{4}-\d\d-\d\d) (\d\d:\d\d):\d\d UTC$/);
  assert(utc, title);
  const local = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "Asia/Tokyo" });
  const shown = scripts ? local.format(new Date(`${utc[1]}T${utc[2]}:00Z`)) : `${utc[1]} ${utc[2]} UTC`;
  assert.equal(await time.innerText(), shown);
}

async function filters(site) {
  const { page } = site;
  await site.choose("State", /succeeded/i);
  await site.choose("Key", /the tour's key/);
  await apply(site);
  assert.equal((await listed(site)).length, 1, "the filters agree with it");
  assert.equal(await page.getByLabel("Search").inputValue(), PROMPT, "the form keeps them");
  await site.choose("State", /failed/i);
  await apply(site);
  assert.deepEqual(await listed(site), []);

  await site.visit("History");
  const day = (days) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
  await page.getByLabel("From", { exact: true }).fill(day(-2));
  await page.getByLabel("To", { exact: true }).fill(day(2));
  await search(site, PROMPT);
  assert.equal((await listed(site)).length, 1);
  await page.getByLabel("To", { exact: true }).fill(day(-2));
  await apply(site);
  assert.deepEqual(await listed(site), []);
}

// From the newest to the oldest: every job once.
async function pages(site) {
  const { page } = site;
  await site.visit("History");
  await search(site, "seed");
  const first = await listed(site);
  const all = [...first];
  const older = page.getByRole("link", { name: "Older" });
  while ((await older.count()) > 0) {
    await site.follow(older.first());
    all.push(...(await listed(site)));
    assert(all.length <= SEEDS, "a job twice, or no end");
  }
  assert(all.length > first.length, "more than one page");
  assert.equal(new Set(all).size, SEEDS);
  await site.follow(page.getByRole("link", { name: "Newest" }).first());
  assert.deepEqual(await listed(site), first);
}

// What is filtered, and no more.
async function exports(site) {
  const csv = await download(site, "Export CSV", /\.csv$/);
  assert.equal(csv.trim().split("\n").length, SEEDS + 1, "a head, and a line each");
  const lines = (await download(site, "Export JSON lines", /\.jsonl$/)).trim().split("\n");
  assert.equal(lines.length, SEEDS);
  assert(lines.every((line) => JSON.parse(line).prompt.startsWith("seed")));
}

async function download({ page }, name, file) {
  const begun = page.waitForEvent("download");
  await page.getByRole("link", { name }).click();
  const download = await begun;
  assert.match(download.suggestedFilename(), file);
  return readFile(await download.path(), "utf8");
}

// The try-out's own: what it was made of, and once more.
export async function jobPage(site) {
  const { page } = site;
  await site.visit("History");
  await search(site, PROMPT);
  const [id] = await listed(site);
  await site.follow(page.locator(`main a[href$='/admin/requests/${id}']`).first());
  await site.heading("Job");
  const main = page.locator("main");
  for (const words of [PROMPT, id, "the tour's key"]) await main.getByText(words).first().waitFor();
  await loaded(main.locator("img[src*='/generated/']").first());
  await loaded(main.locator("img[src*='/references/']").first());

  await site.follow(page.getByRole("link", { name: "Again", exact: true }));
  await site.heading("Try it");
  assert.match(await page.getByLabel("Prompt", { exact: true }).inputValue(), new RegExp(PROMPT));
}

export async function cancelAndDelete(site) {
  const { page } = site;
  const id = await submit(site, site.key, "waits for its end [fake gate]");
  await waitFor(site, site.key, id, "running");
  const address = `${site.admin}/requests/${id}`;
  await page.goto(address);
  await site.follow(page.getByRole("button", { name: "Cancel job" }));
  await site.notice();
  await waitFor(site, site.key, id, "cancelled");

  await page.goto(address);
  assert.equal(await page.getByRole("button", { name: "Cancel job" }).count(), 0);
  await site.follow(page.getByRole("link", { name: "Delete", exact: true }));
  await site.heading("Delete this job?");
  await site.follow(page.getByRole("button", { name: "Delete job" }));
  await site.notice();
  await site.visit("History");
  await search(site, "waits for its end");
  assert.deepEqual(await listed(site), []);
  await site.expecting(404, () => page.goto(address));
}

export async function gallery(site) {
  await site.visit("Gallery");
  const pictures = site.page.locator("main img");
  assert((await pictures.count()) >= 2);
  await loaded(pictures.first());
  await search(site, PROMPT);
  assert.equal(await pictures.count(), 1);
  await loaded(pictures.first());
}
