// What every page must stand. Each check gives a list of what is wrong, so that one run says it of
// all pages.

import axe from "axe-core";
import { HtmlValidate } from "html-validate";

const validator = new HtmlValidate({
  root: true,
  extends: ["html-validate:recommended"],
  rules: {
    // Taste, not validity.
    "doctype-style": "off",
    "no-trailing-whitespace": "off",
    // Without scripts a job is followed by this; the tour sees that it ends with the job.
    "meta-refresh": "off",
  },
});

// Everything about the page that is open, whose HTML was `html` as it was sent.
export async function checkPage(site, html) {
  const { page, scripts } = site;
  return [
    ...(await checkMarkup(html)),
    ...(await checkWidth(page)),
    // It waits by timers, and a page without scripts has none.
    ...(scripts ? await checkAxe(page) : []),
    ...(await checkKeyboard(page)),
  ];
}

export async function checkMarkup(html) {
  const { results } = await validator.validateString(html);
  const messages = results.flatMap((result) => result.messages);
  return messages.map((fault) => {
    const line = html.split("\n")[fault.line - 1]?.trim().slice(0, 160);
    return `html-validate ${fault.ruleId}, line ${fault.line}: ${fault.message}: ${line}`;
  });
}

export async function checkAxe(page) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() =>
    // Fingers are wider than the mouse; axe does not ask by itself yet.
    window.axe.run({ resultTypes: ["violations"], rules: { "target-size": { enabled: true } } }),
  );
  const grave = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  return grave.flatMap(({ id, impact, help, nodes }) =>
    nodes.map(({ target }) => `axe ${id} (${impact}): ${help}: ${target.join(" ")}`),
  );
}

// Nobody scrolls sideways, and what lies on a card does not stick out of it.
export function checkWidth(page) {
  return page.evaluate(() => {
    const root = document.documentElement;
    const right = (element) => element.getBoundingClientRect().right;
    const inside = (card) => {
      const { paddingRight, borderRightWidth } = getComputedStyle(card);
      return right(card) - parseFloat(paddingRight) - parseFloat(borderRightWidth);
    };
    const names = (elements) =>
      elements.slice(0, 5).map((element) => element.outerHTML.split(">")[0].slice(0, 100) + ">").join(" ");
    const faults = [];
    const room = root.clientWidth;
    if (root.scrollWidth > room) {
      const wide = [...document.body.querySelectorAll("*")].filter((element) => right(element) > room + 0.5);
      faults.push(`width: ${root.scrollWidth} px wide in ${room} px, by ${names(wide)}`);
    }
    const out = [...document.querySelectorAll(".card *")].filter(
      (element) =>
        !element.closest("svg, pre, option, datalist, .for") &&
        element !== element.closest(".card") &&
        element.checkVisibility() &&
        right(element) > inside(element.closest(".card")) + 0.5,
    );
    if (out.length > 0) faults.push(`width: sticks out of its card: ${names(out)}`);
    return faults;
  });
}

// With the Tab key alone everything can be reached that can be clicked, and looks different then.
export async function checkKeyboard(page) {
  const count = await page.evaluate(() => {
    const look = (element) => {
      const { outlineStyle, outlineWidth, outlineColor, boxShadow, borderColor, backgroundColor } =
        getComputedStyle(element);
      const outline = outlineStyle === "none" ? "none" : outlineWidth + outlineColor;
      return [outline, boxShadow, borderColor, backgroundColor].join();
    };
    const usable = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]";
    const all = [...document.querySelectorAll(usable)].filter(
      (element) =>
        element.checkVisibility({ visibilityProperty: true }) &&
        !element.disabled &&
        // Of radio buttons with one name Tab reaches one; the arrow keys reach the others.
        !(element.type === "radio" && !element.checked && group(element).some((e) => e.checked)) &&
        // A target of the skip link, say.
        !(element.tabIndex < 0 && !element.matches("a, button, input, select, textarea, summary")),
    );
    function group({ form, name }) {
      return [...(form ?? document).querySelectorAll("input[type=radio]")].filter(
        (radio) => radio.name === name,
      );
    }
    document.activeElement.blur();
    getSelection().removeAllRanges();
    scrollTo(0, 0);
    window.tabbing = { all, before: all.map(look), reached: new Map(), look };
    return all.length;
  });
  // A date field alone stops at its day, month, year and calendar.
  for (let left = count * 5 + 10; left > 0; left -= 1) {
    await page.keyboard.press("Tab");
    const missing = await page.evaluate(() => {
      const { all, before, reached, look } = window.tabbing;
      const index = all.indexOf(document.activeElement);
      const differs = index >= 0 && look(all[index]) !== before[index];
      if (index >= 0) reached.set(index, reached.get(index) || differs);
      return all.length - reached.size;
    });
    if (missing === 0) break;
  }
  return page.evaluate(() => {
    const { all, reached } = window.tabbing;
    const name = (element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 100);
    return all.flatMap((element, index) => {
      if (!reached.has(index)) return [`keyboard: Tab does not reach ${name(element)}`];
      return reached.get(index) ? [] : [`keyboard: no sign of the focus on ${name(element)}`];
    });
  });
}
