// Shows one answer: the picture under its classes, the legend, the class under the pointer, and what can be saved.
import { queryOf } from "/page/api.js";
import { countClasses, paint } from "/page/labels.js";

export const element = (id) => document.getElementById(id);
const percent = (share) => (share < 0.001 ? "< 0.1%" : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}%`);
const stem = (file) => (file.name || "picture").replace(/\.[^.]+$/, "");

let shown = null; // {labels, classes, options, file} of the answer on the screen
let urls = []; // object URLs to release with the next answer
const hidden = new Set(); // ids of classes switched off

/** Tells screen readers. */
export function announce(text) {
  element("status").textContent = text;
}

/** Puts an answer on the screen. labels: as `readLabels` gives them; buffer: the PNG that they came in. */
export function showAnswer({ labels, buffer, file, model, options, timings, took }) {
  const classes = countClasses(labels.ids, model.classes);
  shown = { labels, classes, file, options };
  hidden.clear();
  urls.forEach((url) => URL.revokeObjectURL(url));
  const photo = element("photo");
  const photoUrl = URL.createObjectURL(file);
  const labelsUrl = URL.createObjectURL(new Blob([buffer], { type: "image/png" }));
  urls = [photoUrl, labelsUrl];
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
  const { labels, classes } = shown;
  paint(element("map"), labels, classes, hidden);
  element("all").hidden = hidden.size === 0;
}

function listClasses() {
  const items = shown.classes.map(({ id, name, color, share }) => {
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
  if (!hidden.delete(id)) hidden.add(id);
  for (const button of element("legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(!hidden.has(Number(button.dataset.id))));
  }
  repaint();
}

element("all").addEventListener("click", () => {
  hidden.clear();
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
  const { labels, classes } = shown;
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

function curlOf(file) {
  const query = queryOf(shown.options);
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
  const { labels, file } = shown;
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
