// Proves that the harness sees what it is there for: each page below has one fault, and the harness
// must name it.

import assert from "node:assert/strict";
import { stat } from "node:fs/promises";
import http from "node:http";

import { checkPage } from "./check.mjs";
import { Faults, browse, launch } from "./open.mjs";
import { shoot, shotPath } from "./shots.mjs";

const STYLE = "body { margin: 1rem } a, button { font-size: 1rem; padding: 1rem }";
const POLICY = "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'";

// Head and body of a page, what must be said about it, and how it is looked at.
const PAGES = {
  "/good": { body: '<p><a href="/good">again</a> <button type="button">press</button></p>' },
  "/good-without-scripts": { body: "<p>good</p>", scripts: false },
  "/nameless": { body: '<button type="button"></button>', fault: /axe button-name \(critical\)/ },
  "/pale": { body: '<p class="pale">hardly to be read</p>', fault: /axe color-contrast \(serious\)/ },
  "/twice": { body: '<p id="a">1</p><p id="a">2</p>', fault: /html-validate no-dup-id, line 9/ },
  "/wide": { body: '<p class="wide">wide</p>', fault: /width: \d+ px wide in 360 px, by <p/, screen: "phone" },
  "/sticks-out": { body: '<div class="card"><p class="wide">wide</p></div>', fault: /sticks out of its card: <p/ },
  "/tiny": { body: '<button type="button" class="tiny">a</button><button type="button" class="tiny">b</button>', fault: /axe target-size/ },
  "/unreachable": { body: '<button type="button" tabindex="-1">no</button>', fault: /Tab does not reach <button/ },
  "/unfocused": { body: '<a class="bare" href="/good">where</a>', fault: /no sign of the focus on <a/ },
  "/inline-script": { body: "<script>window.ran = true;</script>", fault: /CSP: script-src-elem inline/ },
  "/inline-style": { body: '<p style="color: #123">blue</p>', fault: /console: .*style/, scripts: false },
  "/foreign-picture": { body: '<img alt="" src="http://elsewhere.invalid/a.png">', policy: "", fault: /foreign request: http:\/\/elsewhere/ },
  "/data-picture": { body: '<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', fault: /foreign request: data|CSP: img-src/ },
  "/no-picture": { body: '<img alt="" src="/nothing.png">', fault: /answer: 404 of .*nothing\.png/ },
  "/throws": { head: '<script src="/throws.js"></script>', fault: /script: Error: thrown/ },
  "/complains": { head: '<script src="/complains.js"></script>', fault: /console: complaint/ },
  "/alerts": { head: '<script src="/alerts.js"></script>', fault: /dialog: 1/ },
};

const FILES = {
  "/style.css": `${STYLE} .pale { color: #bbb } .wide { width: 500px } .bare:focus { outline: none } .card { width: 300px } .tiny { font-size: 6px; padding: 0 }`,
  "/throws.js": 'throw new Error("thrown")',
  "/complains.js": 'console.error("complaint")',
  "/alerts.js": "alert(1)",
};

let refreshes = 0;

function answer({ url }, reply) {
  const file = FILES[url];
  if (file !== undefined) {
    reply.setHeader("content-type", url.endsWith(".js") ? "text/javascript" : "text/css");
    return reply.end(file);
  }
  const { head = "", body = "", policy = POLICY } =
    url === "/refresh" ? { head: '<noscript><meta http-equiv="refresh" content="1"></noscript>' } : PAGES[url] ?? {};
  if (url === "/refresh") refreshes += 1;
  if (!(url in PAGES) && url !== "/refresh") reply.statusCode = 404;
  reply.setHeader("content-type", "text/html; charset=utf-8");
  reply.setHeader("content-security-policy", policy);
  reply.end(`<!doctype html>
<html lang="en">
<head>
<title>A page</title>
<link rel="stylesheet" href="/style.css">
${head}
</head>
<body><main><h1>A page</h1>
${body}
</main></body>
</html>`);
}

const server = http.createServer(answer);
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const base = `http://127.0.0.1:${server.address().port}`;

const browser = await launch();

async function faultsOf(path, options) {
  let problems = [];
  const look = async (site) => {
    const sent = await site.page.goto(base + path);
    problems = await checkPage(site, await sent.text());
    // What a page does is heard a little later than what it says.
    await site.page.waitForTimeout(100);
  };
  try {
    await browse({ browser, base, name: path.slice(1), ...options }, look);
  } catch (error) {
    if (!(error instanceof Faults)) throw error;
    problems.push(...error.faults);
  }
  return problems;
}

for (const [path, { fault, scripts, screen }] of Object.entries(PAGES)) {
  const found = await faultsOf(path, { scripts: scripts ?? true, screen: screen ?? "desktop" });
  if (fault === undefined) assert.deepEqual(found, [], path);
  else assert(found.some((line) => fault.test(line)), `${path}: ${fault} is not in ${found.join("\n")}`);
  console.log(`${path}: ${found.join("\n    ") || "nothing"}`);
}

// Without JavaScript a page is one: what stands in <noscript> counts.
await browse({ browser, base, name: "refresh", scripts: false }, async ({ page }) => {
  await page.goto(`${base}/refresh`);
  await page.waitForEvent("load");
  assert(refreshes >= 2);
});

// An answer that is right to be an error is no fault, and its absence is one.
await browse({ browser, base, name: "expecting" }, async (site) => {
  await site.expecting(404, () => site.page.goto(`${base}/nowhere`));
  await assert.rejects(site.expecting(404, () => site.page.goto(`${base}/good`)), /nothing answered 404/);
});

await browse({ browser, base, name: "shot", scheme: "dark", screen: "phone" }, async (site) => {
  await site.page.goto(`${base}/good`);
  assert(await site.page.evaluate(() => matchMedia("(prefers-color-scheme: dark)").matches));
  await shoot(site, "selftest");
  assert((await stat(shotPath(site, "selftest"))).size > 1000);
});

await browser.close();
server.close();
