// Signing in and out.

import assert from "node:assert/strict";

const { USERNAME, PASSWORD } = process.env;

async function submit({ page }, password) {
  await page.getByLabel("User name", { exact: true }).fill(USERNAME);
  await page.getByLabel("Password", { exact: true }).fill(password);
  const loaded = page.waitForEvent("load");
  // With the Enter key, as most people do.
  await page.getByLabel("Password", { exact: true }).press("Enter");
  await loaded;
}

export async function wrongPassword(site) {
  const { page } = site;
  await page.goto(`${site.admin}/keys`);
  await site.heading("Sign in");
  assert(new URL(page.url()).pathname.endsWith("/admin/login"), page.url());
  await site.expecting(401, () => submit(site, `not ${PASSWORD}`));
  await page.getByRole("alert").waitFor();
  assert.equal(await page.getByLabel("Password", { exact: true }).inputValue(), "", "the password is not sent back");
}

// To the page that was asked for first.
export async function signIn(site) {
  const { page } = site;
  await page.goto(`${site.admin}/keys`);
  await submit(site, PASSWORD);
  await site.heading("Keys");
  assert.equal(page.url(), `${site.admin}/keys`);
  const cookies = (await site.context.cookies()).filter(({ name }) => name === "codex_image_session");
  assert.equal(cookies.length, 1);
  const { httpOnly, sameSite, path } = cookies[0];
  assert(httpOnly);
  assert.notEqual(sameSite, "None");
  assert.equal(path, new URL(site.base).pathname);
}

// The cookie is put back afterwards: it is the server that ends a session.
async function out(site, button) {
  const known = await site.context.cookies();
  await site.follow(site.page.getByRole("button", { name: button, exact: true }));
  await site.heading("Sign in");
  await site.context.addCookies(known);
  await isOut(site);
}

export const leave = (site) => out(site, "Sign out");

export async function leaveEverywhere(site) {
  await site.visit("Settings");
  await out(site, "Sign out everywhere");
}

async function isOut(site) {
  for (const path of ["", "/keys", "/requests", "/settings"]) {
    await site.page.goto(site.admin + path);
    await site.heading("Sign in");
  }
}
