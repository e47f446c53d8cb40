// Orders to the logins. A page leaves them to the worker, which looks for them now and then.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";

import { begins } from "../open.mjs";

const { LOGIN } = process.env;

export async function logins(site) {
  await site.visit("Logins");
  await order(site, "Test");
  const button = site.page.getByRole("button", { name: begins("Rest") });
  await site.choose(begins("Rest for"), /6 h/, site.entry(LOGIN, button));
  await order(site, "Rest");
  await shows(site, /rest(s|ing)/i);
  await order(site, "Wake");
  await shows(site, /ready/i);
}

async function order(site, name) {
  const button = site.page.getByRole("button", { name: begins(name) });
  await site.follow(site.entry(LOGIN, button).getByRole("button", { name: begins(name) }));
  await site.heading("Logins");
  await site.notice();
}

// Waits until the login's card says so.
async function shows(site, pattern) {
  const card = site.page.getByRole("article", { name: LOGIN, exact: true });
  for (let tries = 0; ; tries += 1) {
    await site.page.goto(site.admin);
    const text = await card.innerText();
    if (pattern.test(text)) break;
    assert(tries < 60, `${LOGIN} is not ${pattern}: ${text}`);
    await pause(500);
  }
  await site.visit("Logins");
}

export async function dispatchMode(site) {
  for (const mode of ["primary-first", "round-robin"]) {
    await site.visit("Overview");
    const form = site.page.locator("form", { hasText: "Use this order" });
    const choice = form.locator("[name=mode]");
    const isList = (await form.locator("select[name=mode]").count()) > 0;
    if (isList) await choice.selectOption(mode);
    else await form.locator(`[name=mode][value=${mode}]`).check();
    await site.follow(form.getByRole("button", { name: "Use this order" }));
    await site.notice();
    await site.visit("Overview");
    const chosen = isList ? choice : form.locator("[name=mode]:checked");
    assert.equal(await chosen.inputValue(), mode);
  }
}
