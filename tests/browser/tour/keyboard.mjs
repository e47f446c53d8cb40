// No hand on a mouse: Tab, Shift, Enter and letters alone.

import assert from "node:assert/strict";

const { USERNAME, PASSWORD } = process.env;

// Signs in, makes a key and deletes it; it has to be signed out before.
export async function byKeyboard(site) {
  const { page } = site;
  await page.goto(`${site.admin}/keys`);
  await tabTo(site, "User name");
  await page.keyboard.type(USERNAME);
  await tabTo(site, "Password", 1);
  await page.keyboard.type(PASSWORD);
  await enter(site, "Keys");

  // Past the navigation by its first link.
  await tabTo(site, "Skip to the content", 1);
  await page.keyboard.press("Enter");
  await tabTo(site, "Name of the new key", 1);
  await page.keyboard.type("typed");
  await enter(site, "Keys");
  await site.entry("typed").waitFor();

  await tabTo(site, "Delete typed");
  await enter(site, "Delete this key?");
  await tabTo(site, "Delete key");
  await enter(site, "Keys");
  await site.notice();
}

// Presses Tab until what has that name has the focus, so many times at most.
async function tabTo({ page }, name, most = 80) {
  const wanted = page.getByLabel(name, { exact: true }).or(page.getByRole("link", { name, exact: true }));
  const target = wanted.or(page.getByRole("button", { name, exact: true }));
  for (let tries = 0; tries < most; tries += 1) {
    await page.keyboard.press("Tab");
    if (await target.evaluate((element) => element === document.activeElement)) return;
  }
  assert.fail(`Tab does not come to "${name}"`);
}

async function enter(site, heading) {
  const loaded = site.page.waitForEvent("load");
  await site.page.keyboard.press("Enter");
  await loaded;
  await site.heading(heading);
}
