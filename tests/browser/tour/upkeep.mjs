// What keeps the house clean, and how it is set up.

import assert from "node:assert/strict";

export async function cleanUp(site) {
  const { page } = site;
  await site.visit("Clean-up");
  const runs = page.getByRole("table").last().getByRole("row");
  await site.follow(page.getByRole("button", { name: "Count what would go" }));
  await site.heading("Clean-up");
  // Both come by themselves, with scripts and without.
  await page.getByRole("heading", { name: "What would go" }).waitFor();
  const before = await runs.count();
  await site.follow(page.getByRole("button", { name: "Clean up now" }));
  await site.heading("Clean-up");
  await site.notice();
  await runs.nth(Math.max(before, 1)).waitFor();
}

export async function settings(site) {
  await site.visit("Settings");
  const text = await site.page.locator("main").innerText();
  for (const name of ["ADMIN_PASSWORD", "CODEX_HOMES", "IMAGE_RETENTION_DAYS"]) {
    assert(text.includes(name), `${name} is missing`);
  }
  assert(!(await site.page.content()).includes(process.env.PASSWORD), "the password is masked");
}
