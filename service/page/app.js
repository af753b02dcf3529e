// The page: takes a picture, asks the service once, and lets people look at the answer.
import { fetchModels, segment, ServiceError } from "/page/api.js";
import { readLabels } from "/page/labels.js";
import { announce, element, showAnswer } from "/page/view.js";

const state = {
  models: [],
  file: null, // what was chosen last
  request: null, // AbortController of the running request
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
    showAnswer({ labels, file, model, took, options: asked, ...answer });
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

element("cancel").addEventListener("click", () => state.request?.abort());

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
