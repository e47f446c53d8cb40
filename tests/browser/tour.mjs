// Goes through the admin pages as an operator does, by roles, labels and names alone:
//
//   tour.mjs NAME [--no-scripts] [--phone]
//
// tests/admin_browser.rs says in what surroundings. The service draws with the fake Codex, whose
// words in [fake …] make a job last; it has two logins and a long history.

import { parseArgs } from "node:util";

import { browse } from "./open.mjs";
import { cancelAndDelete, gallery, history, jobPage } from "./tour/history.mjs";
import { keys } from "./tour/keys.mjs";
import { byKeyboard } from "./tour/keyboard.mjs";
import { dispatchMode, logins } from "./tour/logins.mjs";
import { leave, leaveEverywhere, signIn, wrongPassword } from "./tour/session.mjs";
import { tryOut } from "./tour/try-out.mjs";
import { cleanUp, settings } from "./tour/upkeep.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { "no-scripts": { type: "boolean" }, phone: { type: "boolean" } },
});

const steps = [
  wrongPassword,
  signIn,
  keys,
  tryOut,
  history,
  jobPage,
  cancelAndDelete,
  gallery,
  cleanUp,
  logins,
  dispatchMode,
  settings,
  leaveEverywhere,
  signIn,
  leave,
  byKeyboard,
];

const options = {
  name: positionals[0],
  base: process.env.BASE_URL,
  scripts: !values["no-scripts"],
  screen: values.phone ? "phone" : "desktop",
};

await browse(options, async (site) => {
  for (const step of steps) {
    const begin = performance.now();
    console.log(`${step.name} …`);
    await step(site);
    console.log(`… ${Math.round(performance.now() - begin)} ms`);
  }
});
