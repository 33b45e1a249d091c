// The images on the page: one panel each, with an overlay and the marks on it.

/** Build the panels; `act` receives what the pointer does: (kind, panel number, x, y as fractions). */
function buildPanels(images, act) {
  return images.map((record, number) => {
    const figure = document.createElement("figure");
    const stage = element("div", { className: "stage", tabIndex: 0 });
    stage.setAttribute("role", "application");
    stage.setAttribute("aria-label", `${record.name}: arrow keys move the point, Enter clicks`);
    const photo = element("img", { src: record.photo, alt: record.name, draggable: false });
    const canvas = element("canvas", {});
    const reading = element("output", {});
    stage.append(photo, canvas);
    const caption = element("figcaption", {});
    caption.append(element("span", { textContent: `\u200e${record.name}`, title: record.name }), reading);
    figure.append(stage, caption);
    document.getElementById("panels").append(figure);
    listen(stage, number, act);
    return { stage, canvas, reading };
  });
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

function listen(stage, number, act) {
  const report = (kind) => (event) => {
    const box = stage.getBoundingClientRect();
    act(kind, number, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" || event.buttons) report("move")(event);
  });
  stage.addEventListener("click", report("click"));
  stage.addEventListener("pointerleave", report("leave"));
}

/** Show these marks and no others: {panel, x, y, kind, color}. */
function showMarks(panels, marks) {
  document.querySelectorAll(".mark").forEach((old) => old.remove());
  for (const { panel, x, y, kind, color } of marks) {
    const mark = element("span", { className: `mark ${kind}` });
    mark.style.left = `${100 * x}%`;
    mark.style.top = `${100 * y}%`;
    if (color) mark.style.setProperty("--label", color);
    panels[panel].stage.append(mark);
  }
}
