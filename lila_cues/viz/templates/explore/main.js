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
    const button = element("button", { title: `${label + 1}`, onclick: () => set({ label }) });
    button.setAttribute("aria-label", `Label ${label + 1}`);
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
  paint(byId("ramp"), { width: 256, height: 1 }, (words) => words.set(RAMP_WORDS));
  document.addEventListener("keydown", press);
}

function set(changes) {
  Object.assign(state, changes);
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
  else if (key >= "1" && key <= String(LABELS.length)) set({ label: Number(key) - 1 });
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
  byId("status").textContent = text;
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
    return classes.length ? "Now mark something else with another label (keys 1 to 6)." : "Click on a thing to give it the chosen label.";
  const fit = fitted(shown, classes);
  const counts = shown.map((map, i) => {
    const segments = segment(map, fit);
    paintSegments(panels[i].canvas, map, segments, classes);
    return segments;
  });
  panels.forEach(({ reading }, i) => (reading.value = shares(counts[i], classes)));
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
  return classes.map((label, i) => `${label + 1}: ${Math.round((100 * counts[i]) / segments.length)} %`).join("  ");
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
