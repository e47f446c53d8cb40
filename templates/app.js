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

function showTimes() {
  for (const time of all("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    if (time.hasAttribute("data-away")) {
      const left = at - Date.now();
      time.textContent = left < 0 ? `${span(-left)} ago` : `in ${span(left)}`;
    } else {
      time.textContent = (time.closest("[data-day]") ? day : dateTime).format(at);
    }
  }
}
showTimes();
if (document.querySelector("time[data-away]")) setInterval(showTimes, 15000);

// Days of a filter are those of this browser.
for (const zone of all("input[name=tz]")) {
  zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  zone.disabled = zone.value === "";
}

// A job on its way: each phase as it comes, the whole page at the end.
for (const section of all("[data-events]")) {
  const words = section.querySelector("[data-phase]");
  const source = new EventSource(section.dataset.events);
  source.addEventListener("phase", (event) => {
    const text = section.dataset[JSON.parse(event.data).phase];
    if (words && text && words.textContent !== text) words.textContent = text;
  });
  source.addEventListener("result", () => {
    source.close();
    location.reload();
  });
  source.addEventListener("error", () => {
    // It comes back by itself unless the browser has given it up.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  });
}

// What the worker was asked for is not done yet.
const waiting = document.querySelector("[data-reload]");
if (waiting) {
  setTimeout(() => location.replace(location.pathname + withoutDone()), Number(waiting.dataset.reload) * 1000);
}

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

// Pictures can be dropped on their field.
for (const area of all("[data-drop]")) {
  const input = area.querySelector("input[type=file]");
  const over = (event) => {
    event.preventDefault();
    area.classList.add("over");
  };
  area.addEventListener("dragenter", over);
  area.addEventListener("dragover", over);
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
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
