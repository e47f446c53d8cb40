// A Chromium that looks at the service's pages, and what went wrong in it while it looked. A fault
// is whatever no operator should ever cause by using the pages: an error in the console, a request
// to somebody else, a request that failed, something that the Content-Security-Policy forbade.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";

import { chromium } from "playwright-core";

import { shotPath } from "./shots.mjs";

const SCREENS = {
  desktop: { width: 1280, height: 900 },
  phone: { width: 360, height: 740 },
};

const FLAGS = [
  // Chromium's own errands would ask the network for things that are none of ours.
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-quic",
  "--no-first-run",
  "--disable-gpu",
  // A container's /dev/shm is small.
  "--disable-dev-shm-usage",
  // A request to another host is a fault, and it does not leave the machine.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

const PATIENCE = 20_000;

// Of a button that says to those who do not see it, after its word, which of many rows it is for.
export function begins(word) {
  return new RegExp(`^${word}\\b`);
}

class Site {
  faults = [];
  #expected = new Set();
  #seen = new Set();

  constructor(options, context, page) {
    Object.assign(this, options);
    this.context = context;
    this.page = page;
    this.origin = new URL(this.base).origin;
    this.admin = `${this.base}/admin`;
  }

  // Listens to the whole context, so that a page in another tab is heard, too.
  async watch() {
    const { context, faults } = this;
    const fault = (what, text) => faults.push(`${what}: ${text} (on ${this.page.url()})`);
    context.on("console", (message) => {
      // An answer with an error's status is said here without its address; see "response".
      if (message.text().startsWith("Failed to load resource: the server responded")) return;
      if (["error", "warning"].includes(message.type())) fault("console", message.text());
    });
    context.on("weberror", (error) => fault("script", error.error().stack));
    context.on("dialog", (dialog) => {
      fault("dialog", dialog.message());
      dialog.dismiss();
    });
    context.on("request", (request) => {
      if (new URL(request.url()).origin !== this.origin) fault("foreign request", request.url());
    });
    context.on("requestfailed", (request) => {
      const why = request.failure().errorText;
      // So end downloads, and event streams of a page that was left.
      if (why !== "net::ERR_ABORTED") fault("failed request", `${request.url()}: ${why}`);
    });
    context.on("response", (response) => {
      const status = response.status();
      if (this.#expected.has(status)) this.#seen.add(status);
      else if (status >= 400) fault("answer", `${status} of ${response.url()}`);
    });
    // The console says it as well, but not of a page without scripts, nor where it is reported only.
    await context.exposeBinding("heardViolation", (_, text) => fault("CSP", text));
    await context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) => {
        const { effectiveDirective, blockedURI, sourceFile, lineNumber } = event;
        window.heardViolation(`${effectiveDirective} ${blockedURI} ${sourceFile}:${lineNumber}`);
      });
    });
  }

  // What answers with that status while `action` runs is right, and something must.
  async expecting(status, action) {
    this.#expected.add(status);
    this.#seen.delete(status);
    const result = await action();
    this.#expected.delete(status);
    assert(this.#seen.has(status), `nothing answered ${status}`);
    return result;
  }

  // Clicks what leads to another page, or to the same one anew, and waits for it.
  async follow(link) {
    const loaded = this.page.waitForEvent("load");
    await link.click();
    await loaded;
  }

  // By the main navigation, as a person would.
  async visit(name, heading = name) {
    const nav = this.page.getByRole("navigation", { name: "Main" });
    const link = nav.getByRole("link", { name, exact: true });
    if (!(await link.isVisible())) await nav.locator("summary").click();
    await this.follow(link);
    await this.heading(heading);
  }

  async heading(name) {
    await this.page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
  }

  // What the page says was done.
  async notice(pattern = /\S/) {
    await this.page.getByRole("status").filter({ hasText: pattern }).first().waitFor();
  }

  // Chooses in a <select> by what its option shows.
  async choose(label, pattern, within = this.page) {
    const select = within.getByLabel(label, { exact: true });
    const options = await select.locator("option").allTextContents();
    const index = options.findIndex((text) => pattern.test(text.trim()));
    assert(index >= 0, `no ${pattern} in "${label}": ${options.map((text) => text.trim())}`);
    await select.selectOption({ index });
  }

  // The innermost row, card or list item with that text, and with that element.
  entry(text, having) {
    const entries = this.page.locator("tr, li, article, section").filter({ hasText: text });
    return (having ? entries.filter({ has: having }) : entries).last();
  }

  // A page as it is at the moment of a failure.
  async keep() {
    const path = shotPath(this, `failed-${this.name}`);
    try {
      await this.page.screenshot({ path, fullPage: true });
      await writeFile(path.replace(/png$/, "html"), await this.page.content());
      console.error(`at ${this.page.url()}, see ${path} and the .html beside it`);
    } catch (error) {
      console.error(`no picture of the failure: ${error.message}`);
    }
  }
}

// Runs `look` with a Site. It has failed when `look` throws or when there was a fault.
//
//   name     for files
//   base     URL of the service, with its prefix and without a slash at the end
//   scripts  whether JavaScript is on
//   screen   desktop or phone
//   scheme   light or dark
//   browser  one that runs already
export async function browse(options, look) {
  const browser = options.browser ?? (await launch());
  const defaults = { scripts: true, screen: "desktop", scheme: "light" };
  const site = await opened(browser, { ...defaults, ...options });
  try {
    await look(site);
  } catch (error) {
    await site.keep();
    for (const fault of site.faults) console.error(`before that, in the browser: ${fault}`);
    throw error;
  } finally {
    await (options.browser ? site.context : browser).close();
  }
  if (site.faults.length > 0) throw new Faults(site.faults);
}

// What went wrong in the browser although `look` was content.
export class Faults extends Error {
  constructor(faults) {
    super(`in the browser:\n${faults.join("\n")}`);
    this.faults = faults;
  }
}

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
}

async function opened(browser, options) {
  const context = await browser.newContext({
    viewport: SCREENS[options.screen],
    hasTouch: options.screen === "phone",
    colorScheme: options.scheme,
    javaScriptEnabled: options.scripts,
    // Times shown to a person are local ones: not those of whoever runs the tests.
    timezoneId: "Asia/Tokyo",
    locale: "en-GB",
    reducedMotion: "reduce",
  });
  context.setDefaultTimeout(PATIENCE);
  const site = new Site(options, context, await context.newPage());
  await site.watch();
  return site;
}
