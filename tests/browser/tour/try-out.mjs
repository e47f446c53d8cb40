// A picture asked for by hand, with another one as its reference, and seen to become one.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";

export const PROMPT = "a blue boat";
const REFERENCE = path.join(process.env.PICTURES, "red.png");

export async function tryOut(site) {
  const { page } = site;
  await site.visit("Try it");
  await page.getByLabel("Prompt", { exact: true }).fill(`${PROMPT} [fake sleep=4]`);
  await (site.scripts ? dropped(site) : page.getByLabel("Reference pictures").setInputFiles(REFERENCE));
  await page.getByLabel("Size", { exact: true }).fill("1536x1024");
  await site.choose("Quality", /high/i);
  await site.choose("Key", /the tour's key/);
  await site.follow(page.getByRole("button", { name: "Draw" }));
  assert.match(page.url(), /\/admin\/test\?job=[\w-]+$/);
  await (site.scripts ? sawItLive(site) : sawItRefreshed(site));
}

// From elsewhere onto the words below the field; its name is hostile.
async function dropped({ page }) {
  const dataTransfer = await page.evaluateHandle((bytes) => {
    const transfer = new DataTransfer();
    const file = new File([new Uint8Array(bytes)], "<img src=x>.png", { type: "image/png" });
    transfer.items.add(file);
    return transfer;
  }, [...(await readFile(REFERENCE))]);
  const below = page.getByText("They can be dropped here");
  for (const type of ["dragenter", "dragover", "drop"]) await below.dispatchEvent(type, { dataTransfer });
  const count = await page.getByLabel("Reference pictures").evaluate(({ files }) => files.length);
  assert.equal(count, 1, "the field has it");
}

// The finished picture: not the reference.
const picture = ({ page }) => page.locator("main img[src*='/generated/']");

// No page load between the first phase and the picture; the next prompt can be written meanwhile.
async function sawItLive(site) {
  const { page } = site;
  const prompt = page.getByLabel("Prompt", { exact: true });
  await prompt.fill("and a green one");
  await page.evaluate(() => {
    window.sameDocument = true;
  });
  const live = page.locator("main [aria-live], main [role=status]").first();
  const before = await live.innerText();
  await picture(site).first().waitFor();
  assert(await page.evaluate(() => window.sameDocument), "the page was loaded anew");
  assert.notEqual(await live.innerText(), before, "the live region says when it is done");
  assert.equal(await prompt.inputValue(), "and a green one");
  await isDrawn(site);
}

async function sawItRefreshed(site) {
  assert.equal(await site.page.locator("meta[http-equiv=refresh]").count(), 1);
  await picture(site).first().waitFor();
  assert.equal(await site.page.locator("meta[http-equiv=refresh]").count(), 0, "it ends");
  const prompt = await site.page.getByLabel("Prompt", { exact: true }).inputValue();
  assert(prompt.startsWith(PROMPT), "the form keeps what was asked for");
  await isDrawn(site);
}

async function isDrawn(site) {
  await loaded(picture(site).first());
}

// Waits until an <img> shows something.
export async function loaded(image) {
  await image.scrollIntoViewIfNeeded();
  const handle = await image.elementHandle();
  // Not by waitForFunction: it waits by timers, which a page without scripts does not have.
  for (let tries = 0; ; tries += 1) {
    if (await handle.evaluate(({ complete, naturalWidth }) => complete && naturalWidth > 0)) return;
    assert(tries < 100, `${await image.getAttribute("src")} shows nothing`);
    await new Promise((done) => setTimeout(done, 100));
  }
}
