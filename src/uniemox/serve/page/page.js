"use strict";
// Names of files and classes are strangers' words: they become text, never markup.
const $ = (id) => document.getElementById(id);
const make = (tag, textContent = "", className = "", ...children) => {
  const made = Object.assign(document.createElement(tag), { textContent, className });
  made.append(...children);
  return made;
};
const say = (text) => { $("status").textContent = text; };
const number = (value, minimumFractionDigits = 0, signDisplay = "auto") =>
  value.toLocaleString("en", { minimumFractionDigits, maximumFractionDigits: 2, signDisplay }).replace("-", "−");
const percent = (share) =>
  share > 0 && share < 0.005 ? "< 1 %" : share < 1 && share >= 0.995 ? "> 99 %" : `${Math.round(100 * share)} %`;
const WORDED = new Set(["name", "index", "path", "time", "row", "box", "reason", "predicted", "confidence",
  "probabilities", "label_set", "abstains", "likeliest", "out_of_domain", "is_unfamiliar"]); // keys of an answer
let labels = null, key = "", jobs = [], isWorking = false;

class Refused extends Error {
  constructor(status, detail) {
    super(typeof detail === "string" ? detail : `The service could not answer (${status}). Try again in a moment.`);
    this.status = status;
  }
}

async function ask(path, body, tries = 2) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {}, method = body ? "POST" : "GET";
  const answer = await fetch(path, { method, body, headers }).catch(() => {
    throw new Refused(0, "The service cannot be reached. Check the connection, then try again.");
  });
  if (answer.ok) return answer.json();
  const wait = Number(answer.headers.get("Retry-After")) || 1, isBusy = [429, 503].includes(answer.status);
  if (!isBusy || !tries || wait > 30) {
    throw new Refused(answer.status, (await answer.json().catch(() => ({}))).detail);
  }
  say(`The service is busy: trying again in ${wait} s.`);
  await new Promise((done) => setTimeout(done, 1000 * wait));
  return ask(path, body, tries - 1);
}

function send(path, { file, find, corners }, fields) {
  const form = new FormData(), { naturalWidth, naturalHeight } = find(".image");
  const box = corners?.map((share, side) => Math.round(share * (side % 2 ? naturalHeight : naturalWidth)));
  const people = box ? { boxes: JSON.stringify([box]) } : labels.detects ? { detect: "true" } : {};
  form.append("files", file, file.name);
  for (const [name, text] of Object.entries({ ...people, ...fields })) form.append(name, text);
  return ask(path, form);
}

function trouble(error) {
  if (!(error instanceof Refused)) throw error;
  const asksKey = error.status === 401;
  say("");
  $("key").hidden = !asksKey;
  $("trouble").hidden = asksKey && !key;
  $("trouble").firstElementChild.textContent = asksKey ? "The service does not know this key." : error.message;
  if (asksKey) $("secret").focus();
}

async function start() {
  $("trouble").hidden = $("key").hidden = true;
  try { labels ??= await ask("v1/labels"); } catch (error) { return trouble(error); }
  const { limits: { max_bytes: bytes, max_pixels: pixels }, classes, notice, caution, emotion, model } = labels;
  $("model").textContent = `${model}: ${classes.length > 8 ? `${classes.length} labels` : classes.join(", ")}`;
  if (emotion === "evoked") $("question").textContent = "Which emotion does an image evoke?";
  if (emotion === "felt") $("question").textContent = "What does a person in an image seem to feel?";
  const notes = [notice, caution && `This model ${caution}.`].filter(Boolean).join(" ");
  Object.assign($("notice"), { textContent: notes, hidden: !notes });
  $("limits").textContent = `At most ${number(bytes / 2 ** 20)} MB and ${Math.floor(pixels / 1e6)} megapixels each`;
  return work();
}

function add(files) {
  const added = [...files].map((file) => {
    const card = $("card").content.firstElementChild.cloneNode(true), find = (name) => card.querySelector(name);
    const job = { file, card, find, rows: null, corners: null }, image = find(".image");
    find("figcaption").textContent = image.alt = file.name;
    image.onload = () => find(".frame").style.setProperty("--shape", image.naturalWidth / image.naturalHeight);
    image.onerror = () => { find(".frame").hidden = find(".mark").hidden = true; }; // browsers do not show it
    image.src = URL.createObjectURL(file);
    find(".why").onclick = find("select").onchange = find(".box").onclick = () => explain(job);
    find(".toggle").onclick = () => reveal(job, find(".map").hidden);
    letMark(job);
    return job;
  });
  jobs.push(...added);
  $("list").prepend(...added.map((job) => job.card));
  $("results").hidden = !jobs.length;
  return start();
}

async function work() {
  if (isWorking) return;
  isWorking = true;
  try {
    for (let job; (job = jobs.find((one) => !one.rows));) {
      say(`Looking at image ${jobs.indexOf(job) + 1} of ${jobs.length} …`);
      try { show(job, ...(await send("v1/predict", job, {})).predictions); } catch (error) {
        if (![413, 415, 422].includes(error.status)) throw error;
        show(job, { reason: error.message }); // this image alone is refused
      }
    }
    const [row] = jobs.at(-1)?.rows ?? [];
    say(jobs.length > 1 ? `${jobs.length} images: all done.` : row ? `Done: ${row.reason ?? headline(row)}.` : "");
  } catch (error) { trouble(error); } finally { isWorking = false; }
}

const others = (row) => Object.entries(row).filter(([name, value]) => !WORDED.has(name) && value !== null);
const measures = (row) => others(row).filter(([name]) => !name.startsWith("p_")).map(([name, value]) =>
  `${name.replaceAll("_", " ")} ${typeof value === "number" ? number(value) : [value].flat().join(", ")}`);
const headline = (row) => Array.isArray(row.predicted)
  ? row.predicted.join(", ") || "none of the labels" : row.predicted ?? measures(row).join(", ");

function certainty({ confidence, likeliest }) {
  if (confidence == null) return labels.units;
  const words = ["Unsure", "Rather unsure", "Fairly sure", "Very sure"];
  const word = words[[0.5, 0.7, 0.9].filter((bound) => confidence >= bound).length];
  return `${likeliest ? `Likeliest: ${likeliest}` : word}, ${percent(confidence)}`;
}

function hints(row, people) {
  const set = row.label_set, level = labels.label_set_level, warnings = [], texts = [];
  if (row.abstains) warnings.push("The model abstains: it is not sure enough for this answer to be relied on.");
  if (row.is_unfamiliar) warnings.push("Unlike the images that the model was trained on: take its answer with care.");
  const names = new Intl.ListFormat("en", { type: "disjunction" }).format(set ?? []);
  if (set) texts.push(`${set.length > 1 ? "One of" : "Only"} ${names}${level ? `, at ${percent(level)}` : ""}`);
  if (row.predicted != null) texts.push(...measures(row));
  people.forEach((one, place) =>
    texts.push(`Person ${place + 1}: ${one.reason ?? `${headline(one)}. ${certainty(one)}`}`));
  return [...warnings.map((text) => make("li", text, "warm")), ...texts.map((text) => make("li", text))];
}

const bars = (pairs) => make("dl", "", "", ...pairs.map(([name, share]) => {
  const bar = make("i");
  bar.style.width = `${100 * share}%`;
  return make("div", "", "", make("dt", name), make("dd", "", "track", bar), make("dd", percent(share)));
}));

function charts(row) {
  const more = others(row).filter(([name]) => name.startsWith("p_")).map(([name, share]) => [name.slice(2), share]);
  return [Object.entries(row.probabilities ?? {}), more].filter((pairs) => pairs.length).flatMap((pairs) => {
    const ranked = pairs.sort((one, two) => two[1] - one[1]), rest = ranked.slice(6);
    const folded = make("details", "", "", make("summary", `${rest.length} more`), bars(rest));
    return [bars(ranked.slice(0, 6)), ...(rest.length ? [folded] : [])];
  });
}

function show(job, row, ...people) {
  const { card, find } = job, own = row.likeliest ?? row.predicted;
  job.rows = [row, ...people];
  card.classList.remove("waiting");
  find("h3").textContent = row.reason ? "No answer" : headline(row);
  find("h3").classList.toggle("small", typeof row.predicted !== "string");
  find(".sure").textContent = row.reason ?? certainty(row);
  if (row.reason) return;
  find(".hints").replaceChildren(...hints(row, people));
  find(".numbers").replaceChildren(...charts(row));
  find(".ask").hidden = false;
  find("select").replaceChildren(...labels.classes.map((name) => new Option(name, name, false, name === own)));
}

function reveal({ find }, isShown) {
  find(".map").hidden = !isShown;
  find(".toggle").ariaPressed = isShown;
}

async function explain(job) {
  const { find } = job, why = find(".why");
  if (why.disabled) return;
  why.disabled = true;
  find(".reasons").replaceChildren(make("p", "Looking for reasons …"));
  try {
    const found = await send("v1/explain", job, { emotion: find("select").value });
    if (found.map) drawMap(find(".map"), found.map);
    find(".toggle").hidden = !found.map;
    reveal(job, Boolean(found.map));
    find(".reasons").replaceChildren(...reasons(found));
    find(".tools").hidden = false;
  } catch (error) {
    find(".reasons").replaceChildren(make("p", error.message, "warm"));
    if (error.status === 401 || !(error instanceof Refused)) trouble(error);
  } finally { why.disabled = false; }
}

function drawMap(canvas, rows) { // orange speaks for the emotion, blue against it
  const colour = (share) => [...(share > 0 ? [232, 89, 12] : [28, 100, 210]), Math.abs(190 * share)];
  const pixels = new ImageData(Uint8ClampedArray.from(rows.flat().flatMap(colour)), rows[0].length);
  Object.assign(canvas, { width: pixels.width, height: pixels.height }).getContext("2d").putImageData(pixels, 0, 0);
}

function reasons({ sentence, reason, effects, emotion, map }) {
  const legend = map && `Orange marks what speaks for ${emotion}, blue what speaks against it.`;
  const found = [legend, sentence, reason].filter(Boolean).map((text) => make("p", text));
  const [ways, parts] = ["way", "hidden"].map((field) => [...new Set(effects.map((one) => one[field]))]);
  const change = (part, way) => effects.find((one) => one.hidden === part && one.way === way)?.changes[emotion] ?? NaN;
  const line = (name, cells) => make("tr", "", "", make("th", name), ...cells.map(([tag, text]) => make(tag, text)));
  const head = line("", ways.map((way) => ["th", `by ${way}`]));
  const body = parts.map((part) => line(part, ways.map((way) => ["td", number(change(part, way), 2, "exceptZero")])));
  const caption = make("caption", `Change of ${emotion} when hidden`);
  return parts.length ? [...found, make("table", "", "", caption, head, ...body)] : found;
}

function letMark(job) {
  const { find } = job, frame = find(".frame"), box = find(".box"), within = (share) => Math.min(1, Math.max(0, share));
  const steps = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02] };
  const draw = (corners) => {
    const [x0, y0, x1, y1] = job.corners = corners.map(within);
    box.style.inset = `${100 * y0}% ${100 - 100 * x1}% ${100 - 100 * y1}% ${100 * x0}%`;
  };
  const place = ({ clientX, clientY }, area = frame.getBoundingClientRect()) =>
    [(clientX - area.x) / area.width, (clientY - area.y) / area.height];
  let from = null;
  find(".mark").onclick = () => {
    box.hidden = !frame.classList.toggle("marking");
    find(".mark").ariaPressed = !box.hidden;
    job.corners = null;
    if (box.hidden) return;
    reveal(job, false);
    draw([0.25, 0.1, 0.75, 1]);
    box.focus();
  };
  frame.onpointerdown = (event) => { from = box.hidden ? null : place(event); };
  frame.onpointermove = (event) => {
    const pairs = from && place(event).map((share, side) => [share, from[side]]);
    if (pairs) draw([Math.min, Math.max].flatMap((end) => pairs.map((pair) => end(...pair))));
  };
  frame.onpointerup = frame.onpointerleave = () => { from = null; };
  box.onkeydown = (event) => {
    const step = steps[event.key];
    if (step) draw(job.corners.map((share, side) => share + (event.shiftKey && side < 2 ? 0 : step[side % 2])));
    if (step) event.preventDefault();
  };
}

function table() {
  const rows = jobs.flatMap(({ file, rows }) => (rows ?? []).map(({ probabilities, box, index, name, ...row }) => {
    const shares = Object.entries(probabilities ?? {}).map(([name, share]) => [`p_${name}`, share]);
    return { name: file.name, ...row, ...Object.fromEntries(shares), ...box };
  }));
  const names = [...new Set(rows.flatMap(Object.keys))].filter((name) => rows.some((row) => row[name] != null));
  const cell = (value) => {
    const text = typeof value === "object" ? JSON.stringify(value) : `${value}`;
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no formula
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [names, ...rows.map((row) => names.map((name) => row[name] ?? ""))];
  return lines.map((line) => `${line.map(cell)}\r\n`).join("");
}

$("files").onchange = () => { add($("files").files); $("files").value = ""; };
$("trouble").lastElementChild.onclick = start;
$("key").onsubmit = (event) => { event.preventDefault(); key = $("secret").value; start(); };
$("clear").onclick = () => { jobs = []; $("list").replaceChildren(); add([]); $("files").focus(); };
$("save").onclick = () => {
  const href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href, download: "emotions.csv" }).click();
};
for (const { src, alt, parentElement } of document.querySelectorAll("#examples img")) {
  parentElement.onclick = async () => add([new File([await (await fetch(src)).blob()], `${alt}.webp`)]);
}
document.onpaste = ({ clipboardData }) => { if (clipboardData.files.length) add(clipboardData.files); };
const leave = () => $("drop").classList.remove("over");
document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
document.ondragleave = ({ relatedTarget }) => { if (!relatedTarget) leave(); };
document.ondrop = (event) => { event.preventDefault(); leave(); add(event.dataTransfer.files); };
start();
