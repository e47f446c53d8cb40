// What the pages do better with a script. Each of them works without it.
"use strict";

const all = (selector) => document.querySelectorAll(selector);

// Times: local to the browser; the title keeps UTC.
const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric" });

function span(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    if (time.hasAttribute("data-away")) {
      const left = at - Date.now();
      time.textContent = left < 0 ? `${span(-left)} ago` : `in ${span(left)}`;
    } else {
      time.textContent = (time.hasAttribute("data-day") ? day : dateTime).format(at);
    }
  }
}
showTimes(document);
if (document.querySelector("time[data-away]")) setInterval(() => showTimes(document), 15000);

// Days of a filter are those of this browser.
for (const zone of all("input[name=tz]")) {
  zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  zone.disabled = zone.value === "";
}

// Brings the parts of the page that change by themselves up to date. The page is not loaded again:
// what somebody types, has opened or listens to on the rest of it stays.
async function renew() {
  const answer = await fetch(location.href);
  if (!answer.ok) throw answer;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  showTimes(fresh);
  for (const part of all("[data-live]")) {
    const now = fresh.getElementById(part.id);
    if (!now || now.innerHTML === part.innerHTML) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    // Somebody is choosing from a list there.
    if (focused?.matches("select")) continue;
    part.toggleAttribute("data-waits", now.hasAttribute("data-waits"));
    part.replaceChildren(...now.childNodes);
    if (!focused) continue;
    const same = [...part.querySelectorAll(focused.localName)].find((element) => element.isEqualNode(focused));
    (same ?? document.getElementById("main")).focus();
  }
}

// One at a time, and once more when something happened meanwhile. True when it worked; false when it
// is worth another try.
let renewing = null;
let wanted = false;
async function renewed() {
  wanted = true;
  renewing ??= (async () => {
    try {
      while (wanted) {
        wanted = false;
        await renew();
      }
      return true;
    } catch (trouble) {
      // The session or the job is gone: the page itself says so. Else a proxy says that the service
      // restarts, or nobody answers.
      if (trouble.status < 500) location.reload();
      return false;
    } finally {
      renewing = null;
    }
  })();
  return renewing;
}

// A job on its way.
function follow(section) {
  const source = new EventSource(section.dataset.events);
  source.addEventListener("phase", renewed);
  source.addEventListener("result", () => {
    source.close();
    finish();
  });
  source.addEventListener("error", () => {
    // It comes back by itself unless the browser has given it up.
    if (source.readyState !== EventSource.CLOSED) return;
    renewed();
    setTimeout(() => follow(section), 5000);
  });
}

async function finish() {
  while (!(await renewed())) await new Promise((later) => setTimeout(later, 3000));
}

for (const section of all("[data-events]")) follow(section);

// What the worker was asked for: seldomer the longer it takes.
function look(seconds) {
  if (!document.querySelector("[data-waits]")) return;
  setTimeout(async () => {
    await renewed();
    look(Math.min(seconds * 1.5, 30));
  }, seconds * 1000);
}
look(1);

// What was done is said once: not again when the page is loaded again.
function withoutDone() {
  const query = new URLSearchParams(location.search);
  query.delete("done");
  const text = query.toString();
  return text ? `?${text}` : "";
}
if (new URLSearchParams(location.search).has("done")) {
  history.replaceState(null, "", location.pathname + withoutDone());
}

for (const button of all("[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  if (!source) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = source.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Browsers give the clipboard to secure pages only.
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = button.dataset.copied;
  });
}

// Pictures can be dropped on their field; beside it a browser would go to the picture, and what was
// typed would be lost.
if (document.querySelector("[data-drop]")) {
  for (const type of ["dragover", "drop"]) {
    addEventListener(type, (event) => {
      if (event.dataTransfer.types.includes("Files")) event.preventDefault();
    });
  }
}
for (const area of all("[data-drop]")) {
  const input = area.querySelector("input[type=file]");
  const over = (event) => {
    area.classList.add("over");
  };
  area.addEventListener("dragenter", over);
  area.addEventListener("dragover", over);
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    area.classList.remove("over");
    const files = new DataTransfer();
    for (const file of [...input.files, ...event.dataTransfer.files]) files.items.add(file);
    input.files = files.files;
  });
}

// One click, one job.
for (const form of all("form[data-once]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button")) button.disabled = true;
  });
}
addEventListener("pageshow", (event) => {
  // Back from the next page: the form can be sent again.
  if (event.persisted) for (const button of all("form[data-once] button")) button.disabled = false;
});
