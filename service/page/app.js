// The page: takes pictures, has the service label them, and lets people look at what it says. Start reading here.
import { fetchModels, ServiceError, writeKey } from "/page/api.js";
import { ClassesView } from "/page/classes.js";
import { ConfidenceView } from "/page/confidence.js";
import { announce, chosen, element, percent } from "/page/dom.js";
import { AttentionView } from "/page/explorer.js";
import { takeIn } from "/page/intake.js";
import { Line, Picture } from "/page/pictures.js";
import { Stage } from "/page/stage.js";
import { Status } from "/page/status.js";
import { Strip } from "/page/strip.js";
import { Take } from "/page/take.js";

const state = { models: [], pictures: [], current: null, view: null };

/** The current picture, once its labels can be looked at. */
const shown = () => (state.current?.labels ? state.current : null);

const stage = new Stage({
  read: (x, y, number) => (shown() ? state.view.read(x, y, number) : null),
  tap: (x, y) => shown() && state.view.tap(x, y),
});
const changed = () => take.update();
const status = new Status(() => state.current, changed);
const take = new Take(() => shown() && { picture: shown(), view: state.view }, status.wait);
const views = {
  classes: new ClassesView(stage, changed),
  confidence: new ConfidenceView(stage, changed, status.wait),
  attention: new AttentionView(stage, changed, {
    models: () => state.models,
    onError: (error) => (error ? status.tell(error) : status.update()),
  }),
};
state.view = views.classes;
const line = new Line(follow);
const strip = new Strip(choose, remove);

// ---- pictures ----

takeIn(
  (files, source) => {
    const pictures = files.map((file) => new Picture(file, source));
    state.pictures.push(...pictures);
    for (const picture of pictures) {
      strip.add(picture);
      send(picture);
    }
    choose(pictures[0]);
  },
  () => status.tell(new ServiceError("No answer", "The sample cannot be fetched. Is the service still running?")),
);

function send(picture) {
  const model = state.models.find(({ name }) => name === element("model").value);
  if (!model) {
    const text = "The service is still loading its models: try again in a moment.";
    follow(Object.assign(picture, { state: "failed", error: new ServiceError("Not ready", text) }));
    return;
  }
  const scales = [...document.querySelectorAll("#scales input:checked")].map(({ value }) => value).join();
  const options = {
    model: model === state.models[0] ? "" : model.name,
    scales: scales === "1" ? "" : scales,
    flip: element("flip").checked ? "true" : "",
  };
  line.add(picture, options, model);
}

function choose(picture) {
  if (state.current !== picture) {
    state.view.hide?.();
    if (state.current) state.current.labels = null; // it is read again from the answer, which is small
    state.current = picture;
    stage.zoom.reset();
  }
  strip.choose(picture);
  const focusGoes = element("empty").contains(document.activeElement);
  element("empty").hidden = picture !== null;
  element("work").hidden = element("panel").hidden = picture === null;
  element("stage").classList.toggle("filled", picture !== null);
  element("main").classList.toggle("bare", picture === null);
  if (focusGoes && picture) element("stage").focus();
  refresh();
}

function remove(picture) {
  const at = state.pictures.indexOf(picture);
  state.pictures.splice(at, 1);
  strip.remove(picture);
  const next = state.pictures[Math.min(at, state.pictures.length - 1)] ?? null;
  if (state.current === picture) choose(next);
  if (next) strip.focus(next);
  else element("choose").focus();
  picture.release();
}

/** Something about a picture has changed. */
function follow(picture) {
  if (!state.pictures.includes(picture)) return;
  strip.update(picture);
  if (picture === state.current) refresh();
}

// ---- the stage and the panel follow the picture ----

function refresh() {
  const picture = state.current;
  status.update();
  element("again-all").hidden = state.pictures.length < 2;
  const labelled = Boolean(picture?.answer);
  element("take").hidden = !labelled;
  element("tools").hidden = picture?.state === "failed" && !labelled;
  showCard(labelled ? state.view : null);
  if (picture && !labelled) showUnlabelled(picture);
  else if (picture && picture.labels === null) show(picture);
}

function showCard(view) {
  for (const each of Object.values(views)) element(each.card).hidden = each !== view;
}

/** What can be seen of a picture before its answer is there. */
function showUnlabelled(picture) {
  element("caption").textContent = "";
  stage.clear();
  stage.usePanes([""]);
  stage.setPhoto(picture.url, {
    onLoad: (width, height) => state.current === picture && !picture.labels && stage.setSize(width, height),
    onFail: () => stage.usePanes([], `${picture.name} cannot be shown`),
  });
}

async function show(picture) {
  try {
    await picture.read();
  } catch (error) {
    status.tell(new ServiceError("This browser cannot read the answer", error.message));
    return;
  }
  if (state.current !== picture) {
    picture.labels = null;
    return;
  }
  const { labels, classes } = picture;
  stage.setSize(labels.width, labels.height);
  stage.setPhoto(picture.url, { onFail: () => drawByService(picture) });
  element("caption").textContent = captionOf(picture);
  const named = classes.slice(0, 3).map(({ name, share }) => `${name} ${percent(share)}`);
  announce(`${picture.name}: ${classes.length} classes. ${named.join(", ")}.`);
  enter();
}

/** For files that browsers do not show, TIFF say. */
function drawByService(picture) {
  stage.setPhoto("");
  if (picture.drawn) return;
  status.wait("Asking for the picture…", async (signal) => {
    await picture.drawnByService(signal);
    strip.update(picture);
    if (state.current === picture) stage.setPhoto(picture.url, { onFail: () => stage.setPhoto("") });
  });
}

/** Lets the chosen view show the current picture. */
function enter() {
  state.view.hide?.();
  state.view = views[chosen("view")];
  showCard(state.view);
  stage.clear();
  state.view.show(state.current);
  changed();
}

function captionOf({ labels, name, answer: { model, options, timings, took } }) {
  const parts = ["decode", "queue", "infer", "encode"].filter((part) => part in timings);
  const detail = parts.map((part) => `${part} ${Math.round(timings[part])}`).join(" · ");
  const how = [model.name, options.scales && `scales ${options.scales}`, options.flip && "mirrored too"];
  const size = `${labels.width} × ${labels.height}`;
  return `${[name, size, ...how].filter(Boolean).join(" · ")} · ${Math.round(took)} ms${detail ? ` (${detail})` : ""}`;
}

// ---- controls ----

for (const input of document.querySelectorAll("[name=view]")) {
  input.addEventListener("change", () => shown() && enter());
}
element("split").addEventListener("click", () => {
  const on = element("split").getAttribute("aria-pressed") !== "true";
  element("split").setAttribute("aria-pressed", String(on));
  stage.split(on);
});
element("zoom-in").addEventListener("click", () => stage.zoom.larger());
element("zoom-out").addEventListener("click", () => stage.zoom.smaller());
element("zoom-reset").addEventListener("click", () => stage.zoom.reset());

element("options").addEventListener("submit", (event) => {
  event.preventDefault();
  send(state.current);
});
element("again-all").addEventListener("click", () => state.pictures.forEach(send));
element("model").addEventListener("change", () => state.current && send(state.current));
element("scales").addEventListener("change", () => {
  const boxes = [...element("scales").querySelectorAll("input")];
  if (!boxes.some(({ checked }) => checked)) boxes.find(({ value }) => value === "1").checked = true;
});

element("retry").addEventListener("click", () => send(state.current));
element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  writeKey(element("key").value.trim());
  status.tell(null);
  if (state.models.length && state.current) send(state.current);
  else start();
});

async function start() {
  try {
    state.models = await fetchModels(() => status.speak("The service is loading its models."));
  } catch (error) {
    const text = "The service cannot be reached. Is it still running? Then reload this page.";
    status.tell(error instanceof ServiceError ? error : new ServiceError("No answer", text));
    return;
  }
  element("model").replaceChildren(...state.models.map(({ name }) => new Option(name, name)));
  element("model").disabled = false;
  status.tell(null);
  state.pictures.filter((picture) => picture.error && !picture.answer).forEach(send);
}

start();
