// The page: takes a picture, asks the service once, and lets people look at the answer.
import { fetchModels, queryOf, segment, ServiceError } from "/page/api.js";
import { countClasses, paint, readLabels } from "/page/labels.js";

const element = (id) => document.getElementById(id);
const percent = (share) => (share < 0.001 ? "< 0.1%" : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}%`);

const state = {
  models: [],
  file: null, // what was chosen last
  shown: null, // {labels, classes, model, options, file} of the answer on the screen
  hidden: new Set(), // ids of classes switched off
  request: null, // AbortController of the running request
  urls: [], // object URLs to release with the next picture
};

// ---- choosing a picture ------------------------------------------------------------------------------------------

element("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) show(file);
});

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) show(file);
});

let depth = 0; // dragenter and dragleave come for every element that is crossed
document.addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth += 1;
  element("veil").hidden = false;
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("dragleave", () => {
  depth -= 1;
  if (depth <= 0) endDrag();
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  endDrag();
  const [file] = event.dataTransfer.files;
  if (file) show(file);
});

function endDrag() {
  depth = 0;
  element("veil").hidden = true;
}

function show(file) {
  state.file = file;
  run();
}

// ---- asking ------------------------------------------------------------------------------------------------------

function options() {
  const scales = [...element("scales").querySelectorAll("input:checked")].map((box) => Number(box.value));
  const model = element("model").value;
  return {
    model: model === state.models[0]?.name ? "" : model,
    scales: scales.length ? scales : [1],
    flip: element("flip").checked,
  };
}

async function run() {
  state.request?.abort();
  const request = new AbortController();
  const file = state.file;
  const asked = options();
  const model = state.models.find(({ name }) => name === element("model").value);
  state.request = request;
  element("alert").hidden = true;
  busy("Sending…", 0);
  const started = performance.now();
  try {
    if (!model) throw new ServiceError("Not ready", "The service is still loading its models: try again in a moment.");
    const answer = await segment(file, asked, request.signal, (sent) =>
      sent < 1 ? busy(`Sending… ${Math.round(sent * 100)}%`, sent) : busy("Segmenting…", null),
    );
    const took = performance.now() - started;
    const labels = await readLabels(answer.buffer);
    if (request.signal.aborted) return;
    const classes = countClasses(labels.ids, model.classes);
    state.shown = { labels, classes, model, options: asked, file, buffer: answer.buffer };
    state.hidden.clear();
    render(answer.timings, took);
  } catch (error) {
    if (error.name === "AbortError") {
      if (state.request === request) announce("Cancelled.");
    } else if (error instanceof ServiceError) {
      fail(error.title, error.message);
    } else {
      fail("This browser could not show the answer", error.message);
    }
  } finally {
    if (state.request === request) {
      state.request = null;
      element("busy").hidden = true;
      refreshAgain();
    }
  }
}

function busy(text, fraction) {
  const progress = element("progress");
  element("busy").hidden = false;
  element("busy-text").textContent = text;
  if (fraction === null) progress.removeAttribute("value");
  else progress.value = fraction;
}

function fail(title, text) {
  element("alert-title").textContent = title;
  element("alert-text").textContent = text;
  element("alert").hidden = false;
  element("alert").scrollIntoView({ block: "nearest" });
}

function announce(text) {
  element("status").textContent = text;
}

element("cancel").addEventListener("click", () => state.request?.abort());

// ---- showing -----------------------------------------------------------------------------------------------------

function render(timings, took) {
  const { labels, classes, file, buffer } = state.shown;
  state.urls.forEach((url) => URL.revokeObjectURL(url));
  const photo = element("photo");
  const photoUrl = URL.createObjectURL(file);
  const labelsUrl = URL.createObjectURL(new Blob([buffer], { type: "image/png" }));
  state.urls = [photoUrl, labelsUrl];
  element("empty").hidden = true;
  element("view").hidden = false;
  element("stage").classList.add("filled");
  element("result").hidden = false;
  element("take").hidden = false;
  element("frame").style.setProperty("--ratio", `${labels.width} / ${labels.height}`);
  element("frame").style.setProperty("--wide", labels.width / labels.height);
  photo.hidden = false;
  photo.onerror = () => {
    photo.hidden = true; // TIFF, say: the service reads more types than browsers show
    setOpacity(100);
  };
  photo.src = photoUrl;
  element("save-labels").href = labelsUrl;
  element("save-labels").download = `${stem(file)}-labels.png`;
  repaint();
  listClasses();
  element("caption").textContent = captionOf(labels, timings, took);
  element("curl").textContent = curlOf(file);
  const names = classes.slice(0, 3).map(({ name, share }) => `${name} ${percent(share)}`);
  announce(`Done: ${classes.length} classes. ${names.join(", ")}.`);
}

function captionOf({ width, height }, timings, took) {
  const parts = ["decode", "queue", "infer", "encode"].filter((name) => name in timings);
  const detail = parts.map((name) => `${name} ${Math.round(timings[name])}`).join(" · ");
  return `${width} × ${height} pixels · ${Math.round(took)} ms in all${detail ? ` (${detail})` : ""}`;
}

function repaint() {
  const { labels, classes } = state.shown;
  paint(element("map"), labels, classes, state.hidden);
  element("all").hidden = state.hidden.size === 0;
}

function listClasses() {
  const items = state.shown.classes.map(({ id, name, color, share }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = id;
    button.setAttribute("aria-pressed", "true");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${color.join(" ")})`;
    const label = document.createElement("span");
    label.className = "name";
    label.textContent = name;
    const value = document.createElement("span");
    value.className = "share";
    value.textContent = percent(share);
    const bar = document.createElement("span");
    bar.className = "bar-share";
    bar.style.width = `${Math.max(0.5, share * 100)}%`;
    bar.style.backgroundColor = swatch.style.backgroundColor;
    button.append(swatch, label, value, bar);
    button.addEventListener("click", () => toggle(id));
    item.append(button);
    return item;
  });
  element("legend").replaceChildren(...items);
}

function toggle(id) {
  if (!state.hidden.delete(id)) state.hidden.add(id);
  for (const button of element("legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(!state.hidden.has(Number(button.dataset.id))));
  }
  repaint();
}

element("all").addEventListener("click", () => {
  state.hidden.clear();
  listClasses();
  repaint();
});

function setOpacity(value) {
  element("opacity").value = value;
  element("opacity-value").textContent = `${value}%`;
  element("map").style.opacity = value / 100;
}
element("opacity").addEventListener("input", (event) => setOpacity(event.target.value));
setOpacity(60);

// The class under the pointer; a finger works like a pointer.
const frame = element("frame");
const readout = element("readout");
for (const type of ["pointermove", "pointerdown"]) frame.addEventListener(type, readClass);
frame.addEventListener("pointerleave", () => {
  readout.hidden = true;
});

function readClass(event) {
  const { labels, classes } = state.shown;
  const box = element("map").getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * labels.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * labels.height);
  const inside = x >= 0 && y >= 0 && x < labels.width && y < labels.height;
  readout.hidden = !inside;
  if (!inside) return;
  const found = classes.find(({ id }) => id === labels.ids[y * labels.width + x]);
  readout.textContent = found.name;
  readout.style.setProperty("--color", `rgb(${found.color.join(" ")})`);
}

// ---- taking it along ---------------------------------------------------------------------------------------------

const stem = (file) => (file.name || "picture").replace(/\.[^.]+$/, "");

function curlOf(file) {
  const query = queryOf(state.shown.options);
  const name = `${(file.name || "picture.png").replaceAll("'", "'\\''")}`;
  return `curl -F 'image=@${name}' \\\n  '${location.origin}/segment${query}' \\\n  -o labels.png`;
}

element("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(element("curl").textContent);
    element("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element("curl")); // no clipboard without https: select it instead
    element("copy").textContent = "Selected";
  }
  setTimeout(() => (element("copy").textContent = "Copy"), 1500);
});

element("save-overlay").addEventListener("click", () => {
  const { labels, file } = state.shown;
  const canvas = document.createElement("canvas");
  canvas.width = labels.width;
  canvas.height = labels.height;
  const context = canvas.getContext("2d");
  if (!element("photo").hidden) context.drawImage(element("photo"), 0, 0, labels.width, labels.height);
  context.globalAlpha = element("opacity").value / 100;
  context.drawImage(element("map"), 0, 0);
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${stem(file)}-overlay.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
});

// ---- options and models ------------------------------------------------------------------------------------------

element("options").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.file) run();
});
element("options").addEventListener("change", refreshAgain);
element("model").addEventListener("change", () => (state.file ? run() : undefined));

function refreshAgain() {
  const boxes = [...element("scales").querySelectorAll("input")];
  if (!boxes.some((box) => box.checked)) boxes.find((box) => box.value === "1").checked = true;
  element("again").disabled = !state.file;
}

async function start() {
  try {
    state.models = await fetchModels(() => announce("The service is loading its models."));
  } catch {
    fail("No answer", "The service cannot be reached. Is it still running? Then reload this page.");
    return;
  }
  const choices = state.models.map(({ name }) => new Option(name, name));
  element("model").replaceChildren(...choices);
  element("model").disabled = false;
  element("alert").hidden = true;
}

start();
