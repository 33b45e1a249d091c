// What the page shows, and how clicks, touch and keys change it.

const record = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const state = {
  view: "similarity",
  features: "lila",
  label: 0,
  point: { panel: 0, x: 0.5, y: 0.5 },
  held: false,
  clicks: [],
  notice: "", // of the last save or load, until something changes
};
let maps = {}; // by name of the features: one map per image
let similarities = [];
let panels = [];
let scheduled = false;

async function start() {
  panels = buildPanels(record.images, act);
  document.body.dataset.count = panels.length;
  for (const [name, { book, images }] of Object.entries(record.features))
    maps[name] = await Promise.all(images.map((image) => readMap(image, book)));
  buildControls();
  draw();
  document.body.dataset.ready = "";
}

function buildControls() {
  LABELS.forEach((color, label) => {
    const button = element("button", { title: keyOf(label), onclick: () => set({ label }) });
    button.setAttribute("aria-label", label === BACKGROUND ? "Background" : `Label ${keyOf(label)}`);
    button.style.setProperty("--label", color);
    button.dataset.label = label;
    document.querySelector(".labels").append(button);
  });
  for (const name of ["view", "features"])
    for (const button of document.querySelectorAll(`[data-${name}]:is(button)`))
      button.onclick = () => set({ [name]: button.dataset[name] });
  for (const id of ["strength", "from", "lambda", "brush"]) byId(id).oninput = schedule;
  byId("undo").onclick = undo;
  byId("clear").onclick = () => set({ clicks: [] });
  byId("save").onclick = saveLabels;
  byId("load").onclick = () => byId("file").click();
  byId("masks").onclick = saveMasks;
  byId("file").onchange = async ({ target }) => {
    if (target.files.length) loadLabels(await target.files[0].text());
    target.value = "";
  };
  paint(byId("ramp"), { width: 256, height: 1 }, (words) => words.set(RAMP_WORDS));
  document.addEventListener("keydown", press);
}

function keyOf(label) {
  return label === BACKGROUND ? "0" : `${label + 1}`;
}

function set(changes) {
  Object.assign(state, { notice: "" }, changes);
  schedule();
}

function undo() {
  set({ clicks: state.clicks.slice(0, -1) });
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

/** What a pointer does to panel number `panel`. */
function act(kind, panel, x, y) {
  if (kind === "move" && state.view === "similarity" && !state.held) set({ point: { panel, x, y } });
  else if (kind === "move") read(panel, x, y);
  else if (kind === "leave") panels.forEach(({ reading }) => (reading.value = ""));
  else if (kind === "click") click({ panel, x, y });
}

function click(point) {
  if (state.view === "segments") set({ point, clicks: [...state.clicks, { ...point, label: state.label }] });
  else if (state.view === "similarity") set({ point, held: true });
}

/** Beside the name, the cosine under the pointer. */
function read(panel, x, y) {
  if (state.view !== "similarity" || !similarities[panel]) return;
  const value = similarities[panel][pixelAt(maps[state.features][panel], x, y)];
  panels[panel].reading.value = `cosine ${value.toFixed(2)}`;
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const VIEWS = { s: "similarity", g: "segments", p: "pca", i: "image" };

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const panel = panels.findIndex(({ stage }) => stage === document.activeElement);
  if (key in VIEWS) set({ view: VIEWS[key] });
  else if (key === "f") set({ features: state.features === "lila" ? "encoder" : "lila" });
  else if (LABELS.some((_, label) => key === keyOf(label))) set({ label: LABELS.findIndex((_, label) => key === keyOf(label)) });
  else if (key === "u") undo();
  else if (key === "c") set({ clicks: [] });
  else if (key === "Escape") set({ held: false });
  else if (panel >= 0 && key in MOVES) step(panel, MOVES[key], event.shiftKey ? 10 : 1);
  else if (panel >= 0 && (key === "Enter" || key === " ")) click(pointOn(panel));
  else return;
  event.preventDefault();
}

/** The point, or the middle of the panel if it is on another one. */
function pointOn(panel) {
  return state.point.panel === panel ? state.point : { panel, x: 0.5, y: 0.5 };
}

function step(panel, [dx, dy], times) {
  const map = maps.lila[panel];
  const { x, y } = pointOn(panel);
  const within = (value) => Math.min(0.999, Math.max(0, value));
  set({ point: { panel, x: within(x + (dx * times) / map.width), y: within(y + (dy * times) / map.height) } });
}

function draw() {
  const started = performance.now();
  showControls();
  const shown = maps[state.features];
  similarities = [];
  const text = { similarity: drawSimilarity, segments: drawSegments, pca: drawComponents, image: () => "" }[state.view](shown);
  panels.forEach(({ canvas }) => {
    canvas.className = state.features === "encoder" ? "coarse" : "";
    const hidden = state.view === "image" || (state.view === "segments" && labelsUsed().length < 2);
    canvas.style.opacity = hidden ? 0 : (byId("strength").value / 100) * (state.view === "segments" ? 0.7 : 1);
  });
  showMarks(panels, marks());
  byId("status").textContent = state.notice || text;
  byId("save").disabled = !state.clicks.length;
  byId("masks").disabled = labelsUsed().length < 2;
  document.body.dataset.milliseconds = (performance.now() - started).toFixed(1);
}

function drawSimilarity(shown) {
  const { panel, x, y } = state.point;
  const vector = vectorAt(shown[panel], pixelAt(shown[panel], x, y));
  const low = byId("from").value / 100;
  similarities = shown.map((map) => cosines(map, vector));
  similarities.forEach((values, i) => paintSimilarity(panels[i].canvas, shown[i], values, low));
  byId("low").value = low.toFixed(2);
  read(panel, x, y);
  return state.held
    ? "Held here: move over the images to read the cosine, Esc lets go."
    : "Cosine similarity to the point under the pointer; click or tap to hold it.";
}

function labelsUsed() {
  return [...new Set(state.clicks.map(({ label }) => label))].sort();
}

function drawSegments(shown) {
  const classes = labelsUsed();
  if (classes.length < 2)
    return classes.length ? "Now mark something else with another label (keys 1 to 6, 0 for background)." : "Click on a thing to give it the chosen label.";
  const fit = fitted(shown, classes);
  shown.forEach((map, i) => {
    const segments = segment(map, fit);
    paintSegments(panels[i].canvas, map, segments, classes);
    panels[i].reading.value = shares(segments, classes);
  });
  return `Ridge fit to ${state.clicks.length} clicks, ${classes.length} labels.`;
}

/** The linear maps from features to labels that the clicks ask for. */
function fitted(shown, classes) {
  const rows = [];
  const labels = [];
  for (const { panel, x, y, label } of state.clicks) {
    const scale = shown[panel].width / maps.lila[panel].width;
    const found = around(shown[panel], x, y, Math.floor(byId("brush").value * scale));
    rows.push(...found);
    labels.push(...found.map(() => label));
  }
  return ridge(rows, labels, classes, 10 ** byId("lambda").value);
}

function shares(segments, classes) {
  const counts = classes.map(() => 0);
  for (const index of segments) counts[index]++;
  return classes.map((label, i) => `${keyOf(label)}: ${Math.round((100 * counts[i]) / segments.length)} %`).join("  ");
}

function download(name, content) {
  const url = URL.createObjectURL(content);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** The labels as points in pixels of the images, pixel centers at whole numbers, with what else shapes the segments. */
function saveLabels() {
  const points = state.clicks.map(({ panel, x, y, label }) => {
    const { name, file, frame, width, height } = record.images[panel];
    const pixel = (part, size) => Math.min(size - 1, Math.max(0, part * size - 0.5));
    return { image: name, file, frame, x: pixel(x, width), y: pixel(y, height), label: Number(keyOf(label)) };
  });
  const settings = Object.fromEntries(["lambda", "brush"].map((id) => [id, Number(byId(id).value)]));
  const text = JSON.stringify({ kind: "lila labels", features: state.features, ...settings, points }, null, 1);
  download("labels.json", new Blob([text], { type: "application/json" }));
  set({ notice: `labels.json has ${points.length} labels.` });
}

/** Replace the labels by those of a file; a notice counts those that name no image of this page. */
function loadLabels(text) {
  let found;
  try {
    found = JSON.parse(text);
    if (found.kind !== "lila labels" || !Array.isArray(found.points)) throw 0;
  } catch {
    return set({ notice: "Expected a file that Save has written in a page like this; found another one." });
  }
  const clicks = [];
  for (const { image, x, y, label } of found.points) {
    const panel = record.images.findIndex(({ name }) => name === image);
    const index = LABELS.findIndex((_, at) => keyOf(at) === String(label));
    if (panel < 0 || index < 0 || !Number.isFinite(x) || !Number.isFinite(y)) continue;
    const { width, height } = record.images[panel];
    clicks.push({ panel, x: (x + 0.5) / width, y: (y + 0.5) / height, label: index });
  }
  for (const id of ["lambda", "brush"]) if (Number.isFinite(found[id])) byId(id).value = found[id];
  const lost = found.points.length - clicks.length;
  const notice = `${clicks.length} labels loaded.${lost ? ` ${lost} are of images that are not in this page.` : ""}`;
  set({ view: "segments", features: found.features === "encoder" ? "encoder" : "lila", clicks, notice });
}

/** A PNG of each labeled image, of its own size, in the colors of the labels. */
async function saveMasks() {
  const classes = labelsUsed();
  const shown = maps[state.features];
  const fit = fitted(shown, classes);
  const labeled = [...new Set(state.clicks.map(({ panel }) => panel))];
  for (const panel of labeled) {
    const { name, width, height } = record.images[panel];
    const [small, large] = [element("canvas", {}), element("canvas", { width, height })];
    paintSegments(small, shown[panel], segment(shown[panel], fit), classes, true);
    const context = large.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, height);
    download(`${name.replace(/[^\w.-]+/g, "_")}_mask.png`, await new Promise((done) => large.toBlob(done)));
  }
  set({ notice: `${labeled.length} ${labeled.length > 1 ? "masks" : "mask"} saved.` });
}

function drawComponents(shown) {
  shown.forEach((map, i) => paintComponents(panels[i].canvas, map));
  return "The first three principal components over all images, as red, green and blue.";
}

function showControls() {
  document.body.dataset.view = state.view;
  for (const name of ["view", "features", "label"])
    for (const button of document.querySelectorAll(`button[data-${name}]`))
      button.setAttribute("aria-pressed", button.dataset[name] === String(state[name]));
  byId("lambda-value").value = Number((10 ** byId("lambda").value).toPrecision(2));
  byId("brush-value").value = `${byId("brush").value} px`;
  panels.forEach(({ reading }) => (reading.value = ""));
}

function marks() {
  const { panel, x, y } = state.point;
  if (state.view === "segments")
    return [
      ...state.clicks.map((c) => ({ ...c, kind: "label", color: LABELS[c.label] })),
      ...(panels[panel].stage === document.activeElement ? [{ panel, x, y, kind: "query" }] : []),
    ];
  return state.view === "similarity" ? [{ panel, x, y, kind: state.held ? "query held" : "query" }] : [];
}

start();
