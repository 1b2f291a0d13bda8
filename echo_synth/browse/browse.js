"use strict";

const get = (id) => document.getElementById(id);
const filters = ["view", "phase", "split", "flags"];
let cases = [];
let shown = [];
let at = 0;

function values(row, key) {
  return key === "flags" ? row.flags : [row[key]];
}

function fill(key) {
  const known = [...new Set(cases.flatMap((row) => values(row, key)))].sort();
  for (const value of known) {
    const option = document.createElement("option");
    option.value = option.textContent = value;
    get(key).append(option);
  }
  get(key).parentElement.hidden = known.length < 2 && key !== "flags" || known.length === 0;
}

function choose() {
  const patient = get("patient").value.trim().toLowerCase();
  const before = shown[at];
  shown = cases.filter(
    (row) =>
      filters.every((key) => !get(key).value || values(row, key).includes(get(key).value)) &&
      row.patient.toLowerCase().includes(patient)
  );
  at = Math.max(0, shown.indexOf(before));
  show();
}

function picture(id, kind, row, alt) {
  const image = get(id);
  image.hidden = !row;
  if (row) {
    image.src = `${kind}/${encodeURIComponent(row.case)}.png`;
    image.alt = alt;
  }
}

function show() {
  const row = shown[at];
  picture("image", "image", row, row && `${row.kind} image ${row.case}`);
  picture("below", "image", row, "");
  picture("overlay", "labels", row, row && `labels of ${row.case} over its image`);
  picture("labels", "labels", row, row && `labels of ${row.case}`);
  get("overlay").hidden = !row || get("toggle").getAttribute("aria-pressed") !== "true";
  get("place").textContent = row ? `${row.case}, ${at + 1} of ${shown.length}` : "no case fits the filters";
  get("facts").textContent = row
    ? [row.kind, row.patient, row.view, row.phase, row.split, ...row.flags].join(" · ")
    : "";
  get("back").disabled = at <= 0;
  get("next").disabled = at >= shown.length - 1;
}

function go(to) {
  at = Math.min(Math.max(0, to), Math.max(0, shown.length - 1));
  show();
}

function toggle() {
  const on = get("toggle").getAttribute("aria-pressed") !== "true";
  get("toggle").setAttribute("aria-pressed", String(on));
  get("toggle").textContent = on ? "Labels on (O)" : "Labels off (O)";
  show();
}

const keys = {
  ArrowLeft: () => go(at - 1),
  k: () => go(at - 1),
  ArrowRight: () => go(at + 1),
  j: () => go(at + 1),
  Home: () => go(0),
  End: () => go(shown.length - 1),
  o: toggle,
};

document.addEventListener("keydown", (event) => {
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  event.preventDefault();
  action();
});

get("back").addEventListener("click", () => go(at - 1));
get("next").addEventListener("click", () => go(at + 1));
get("toggle").addEventListener("click", toggle);
get("filters").addEventListener("input", choose);
get("filters").addEventListener("submit", (event) => event.preventDefault());

fetch("cases.json")
  .then((answer) => answer.json())
  .then((rows) => {
    cases = rows;
    filters.forEach(fill);
    choose();
  });
