// The dashboard's script: shows what changes, and answers keys.  Every page works without it.
"use strict";

// ── what changes ──────────────────────────────────────────────────────────────────
// The server sends the parts of the page that have data-live; each replaces the element with its id.

const live = document.getElementById("live");
const address = document.body.dataset.stream;
let stream = null;
let paused = false;
let again = 0;

function show(state, word, title) {
  live.hidden = false;
  live.className = "live " + state;
  live.querySelector(".word").textContent = word;
  live.title = title;
}

function connect() {
  clearTimeout(again);
  if (!address || paused || document.hidden || stream) return;
  stream = new EventSource(address);
  stream.onopen = () => show("on", "live", "Pause updates (p)");
  stream.onmessage = (event) => { show("on", "live", "Pause updates (p)"); update(event.data); };
  stream.addEventListener("over", () => { disconnect(); show("lost", "signed out", "Reload the page to log in"); });
  stream.onerror = () => {
    show("lost", "offline", "The server does not answer; trying again");
    if (stream && stream.readyState === EventSource.CLOSED) { disconnect(); again = setTimeout(connect, 5000); }
  };
}

function disconnect() {
  if (stream) stream.close();
  stream = null;
}

function toggle() {
  paused = !paused;
  if (paused) { disconnect(); show("", "paused", "Continue updates (p)"); } else connect();
}

function update(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  for (const part of parsed.querySelectorAll("[data-live][id]")) {
    const here = document.getElementById(part.id);
    if (!here) continue;
    if (part.hasAttribute("data-rows")) rows(here, part);
    else if (here.innerHTML !== part.innerHTML && !here.contains(document.activeElement)) here.innerHTML = part.innerHTML;
  }
}

// A row that is there already keeps its element, and so the focus.  While a pointer or the focus is on the
// list, its order stays, so that nothing moves away from under a finger.
function rows(here, part) {
  const held = here.matches(":hover") || here.contains(document.activeElement);
  const wanted = [...part.rows].map((row) => {
    const known = document.getElementById(row.id);
    if (!known || known.parentNode !== here) return row;
    known.className = row.className + (known === at() ? " at" : "");
    [...row.cells].forEach((cell, index) => {
      if (known.cells[index].innerHTML !== cell.innerHTML) known.cells[index].innerHTML = cell.innerHTML;
    });
    return known;
  });
  if (!held && (wanted.length !== here.rows.length || wanted.some((row, index) => row !== here.rows[index]))) {
    here.replaceChildren(...wanted);
  }
}

if (address && live) {
  live.addEventListener("click", toggle);
  document.addEventListener("visibilitychange", () => { if (document.hidden) disconnect(); else connect(); });
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", connect);
  connect();
}

// ── keys ──────────────────────────────────────────────────────────────────────────

const at = () => document.querySelector("tr.at");
const list = () => [...document.querySelectorAll("table.queues tbody tr, table.messages tbody tr")];

function move(step) {
  const all = list();
  const before = at();
  const next = all[Math.max(0, Math.min(all.length - 1, before ? all.indexOf(before) + step : 0))];
  if (!next) return;
  if (before) before.classList.remove("at");
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
}

const follow = (selector) => { const link = document.querySelector(selector); if (link) link.click(); };

const keys = {
  "/": () => { const field = document.getElementById("filter"); if (field) { field.focus(); field.select(); } },
  j: () => move(1),
  k: () => move(-1),
  x: () => { const box = at() && at().querySelector("input[type=checkbox]"); if (box) box.click(); },
  Enter: () => { const link = at() && at().querySelector("td a"); if (link) link.click(); },
  r: () => location.reload(),
  p: () => { if (address && live) toggle(); },
  u: () => follow(".crumb a:last-of-type"),
  n: () => follow(".pages a[rel=next]"),
  b: () => follow(".pages a[rel=prev]"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (typing) typing.blur();
    for (const panel of document.querySelectorAll("details.panel[open]")) { panel.open = false; panel.querySelector("summary").focus(); }
    return;
  }
  if (typing || (event.key === "Enter" && event.target.closest("a, button, summary"))) return;
  const act = keys[event.key];
  if (act) { event.preventDefault(); act(); }
});

// ── forms ─────────────────────────────────────────────────────────────────────────

for (const panel of document.querySelectorAll("details.panel")) {
  document.addEventListener("click", (event) => { if (!panel.contains(event.target)) panel.open = false; });
  panel.addEventListener("toggle", () => { if (panel.open) panel.querySelector("textarea").focus(); });
}

const boxes = [...document.querySelectorAll("input[name=id][type=checkbox]")];
const all = document.getElementById("all");
function count() {
  const chosen = boxes.filter((box) => box.checked).length;
  const text = document.getElementById("chosen");
  if (text) text.textContent = chosen === 1 ? "1 message chosen:" : chosen + " messages chosen:";
  for (const button of document.querySelectorAll(".chosen button")) button.disabled = !chosen;
  if (all) { all.checked = chosen > 0 && chosen === boxes.length; all.indeterminate = chosen > 0 && chosen < boxes.length; }
}
if (all && boxes.length) {
  all.hidden = false;
  all.addEventListener("change", () => { for (const box of boxes) box.checked = all.checked; count(); });
}
if (boxes.length) {
  for (const box of boxes) box.addEventListener("change", count);
  count();
}
