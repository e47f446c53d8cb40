// Opens every page in light and dark, wide and narrow, and without scripts; checks and photographs
// each of them.

import { checkMarkup, checkPage } from "./check.mjs";
import { Faults, browse, launch } from "./open.mjs";
import { shoot } from "./shots.mjs";
import { signIn } from "./tour/session.mjs";

// Jobs by what became of them, and a key, of a service that was furnished for this.
const { BASE_URL: base, FURNITURE } = process.env;
const { jobs, key } = JSON.parse(FURNITURE);

const SIGNED_IN = {
  overview: "",
  keys: "/keys",
  "key-delete": `/api-keys/${key}/delete`,
  "try-it": "/test",
  "try-it-again": `/test?again=${jobs.referenced}`,
  "try-it-live": `/test?job=${jobs.running}`,
  "try-it-done": `/test?job=${jobs.succeeded}`,
  history: "/requests",
  "history-hostile": "/requests?q=%3Cscript%3E",
  "history-empty": "/requests?q=nobody+asked+for+this",
  ...Object.fromEntries(Object.entries(jobs).map(([state, id]) => [`job-${state}`, `/requests/${id}`])),
  "job-delete": `/image-requests/${jobs.failed}/delete`,
  gallery: "/gallery",
  "clean-up": "/cleanup",
  logins: "/logins",
  settings: "/settings",
};

const problems = [];

async function look(site, name, path, status = 200) {
  const open = () => site.page.goto(site.admin + path);
  const sent = await (status === 200 ? open() : site.expecting(status, open));
  const html = await sent.text();
  await shoot(site, name);
  // Without scripts it would be another page before it is looked through.
  const passes = !site.scripts && html.includes('http-equiv="refresh"');
  const found = await (passes ? checkMarkup(html) : checkPage(site, html));
  problems.push(...found.map((line) => `${name} (${site.scheme}, ${site.screen}): ${line}`));
  const details = site.page.locator("main details");
  if (passes || (await details.count()) === 0) return;
  // What somebody has to ask for.
  await details.evaluateAll((all) => all.forEach((one) => (one.open = true)));
  await shoot(site, `${name}-opened`);
  const more = await checkPage(site, html);
  problems.push(...more.map((line) => `${name}, opened (${site.scheme}, ${site.screen}): ${line}`));
}

// The page with a fresh key is seen once only.
async function freshKey(site) {
  await site.page.goto(`${site.admin}/keys`);
  await site.page.getByLabel("Name of the new key").fill(`seen in ${site.scheme}`);
  await site.follow(site.page.getByRole("button", { name: "Create key" }));
  await shoot(site, "key-created");
}

const browser = await launch();
for (const way of [
  { scheme: "light", screen: "desktop" },
  { scheme: "light", screen: "phone" },
  { scheme: "dark", screen: "desktop" },
  { scheme: "dark", screen: "phone" },
  { scheme: "light", screen: "phone", scripts: false },
]) {
  try {
    await browse({ browser, base, name: "pages", ...way }, async (site) => {
      await look(site, "sign-in", "/login");
      await signIn(site);
      for (const [name, path] of Object.entries(SIGNED_IN)) await look(site, name, path);
      await look(site, "not-found", "/no-such-page", 404);
      await freshKey(site);
    });
  } catch (error) {
    if (!(error instanceof Faults)) throw error;
    problems.push(...error.faults);
  }
}
await browser.close();

if (problems.length > 0) throw new Error(`${problems.length} faults:\n${problems.join("\n")}`);
