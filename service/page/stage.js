// Where a picture is looked at: one or two frames that show the same part of it under a layer of colours, the part
// before the divider without; what lies under the pointer, a finger or the keyboard's cross is told.
// Not here: what the layer shows (classes.js, confidence.js, explorer.js).
import { announce, clamp, element, times } from "/page/dom.js";
import { placeIn, watchPointers, Zoom } from "/page/zoom.js";

const KEY_STEP = 1 / 40; // of the picture, for an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Where an arrow key moves a place of the picture, both as fractions; null for other keys. Shift: in large steps. */
export function moved({ u, v }, event) {
  const [du, dv] = ARROWS[event.key] ?? [];
  if (du === undefined || event.altKey || event.ctrlKey || event.metaKey) return null;
  const step = KEY_STEP * (event.shiftKey ? 4 : 1);
  return { u: clamp(u + du * step, 0, 1), v: clamp(v + dv * step, 0, 1) };
}

export class Stage {
  #split = 0.5;

  /** read: (x, y, frame number) → {text, color} or null. tap: (x, y). Both in pixels of the picture. */
  constructor({ read, tap }) {
    Object.assign(this, { read, tap, width: 1, height: 1, cross: { u: 0.5, v: 0.5 } });
    this.surface = element("panes");
    this.panes = [0, 1].map((number) => this.#build(number));
    this.zoom = new Zoom(this.surface, (factor) => this.#zoomed(factor));
    for (const pane of this.panes) {
      watchPointers(pane.frame, this.zoom, {
        onHover: (event, place) => this.#tell(place, event.pointerType === "mouse" ? pane : null),
        onTap: (_, place) => this.#inside(place) && this.tap(...this.pixelOf(place)),
        onLeave: () => this.forget(),
      });
    }
    this.usePanes([""]);
    this.split(false);
  }

  #build(number) {
    const figure = element("pane").content.firstElementChild.cloneNode(true);
    const find = (name) => figure.querySelector(`.${name}`);
    const [frame, divider] = [find("frame"), find("divider")];
    frame.addEventListener("keydown", (event) => this.#key(event));
    frame.addEventListener("blur", () => this.forget());
    divider.addEventListener("keydown", (event) => this.#dividerKey(event));
    divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      this.#moveSplit(placeIn(frame, event).u);
    });
    this.surface.append(figure);
    return {
      ...{ number, figure, frame, divider },
      ...{ photos: [find("photo"), find("grey")], canvas: find("layer"), marks: find("marks") },
      ...{ readout: find("readout"), cross: find("cross"), seen: find("seen") },
      ...{ title: find("pane-title"), scale: find("scale"), most: find("most") },
    };
  }

  /** A frame for each title, or a text where there is none. */
  usePanes(titles, text = "") {
    element("blank").textContent = text;
    element("blank").hidden = titles.length > 0;
    this.panes.forEach((pane, i) => {
      pane.figure.hidden = i >= titles.length;
      pane.title.textContent = titles[i] ?? "";
    });
    this.surface.classList.toggle("two", titles.length === 2);
  }

  setSize(width, height) {
    Object.assign(this, { width, height });
    this.surface.style.setProperty("--ratio", `${width} / ${height}`);
    this.surface.style.setProperty("--wide", width / height);
  }

  /** url: of what the browser is to show, "" for nothing. onLoad gets its size; onFail: it cannot be shown. */
  setPhoto(url, { onLoad = () => {}, onFail = () => {} } = {}) {
    for (const [i, photo] of this.panes.flatMap(({ photos }) => photos).entries()) {
      photo.onload = i === 0 ? () => onLoad(photo.naturalWidth, photo.naturalHeight) : null;
      photo.onerror = i === 0 && url ? onFail : null;
      if (!url) photo.removeAttribute("src");
      else if (photo.getAttribute("src") !== url) photo.src = url;
      else if (i === 0 && photo.complete && photo.naturalWidth === 0) queueMicrotask(onFail); // it was tried before
    }
    this.surface.classList.toggle("blind", !url);
  }

  /** grey: the picture stands back behind the layer. */
  setLook({ grey, opacity }) {
    this.surface.classList.toggle("greyed", grey);
    this.surface.style.setProperty("--opacity", opacity);
  }

  /** Empties the layers: nothing is known yet. */
  clear() {
    for (const { canvas, marks, seen, scale } of this.panes) {
      canvas.width = canvas.height = 1;
      marks.replaceChildren();
      seen.hidden = scale.hidden = true;
    }
    this.forget();
  }

  /** Shows heat in a frame, with what its brightest colour means, and the window that the network saw. */
  draw(number, heat) {
    const { canvas, seen, scale, most } = this.panes[number];
    heat.paint(canvas);
    most.textContent = times(heat.high);
    const [left, top, width, height] = heat.window;
    const box = { left: left / this.width, top: top / this.height, width: width / this.width, height: height / this.height };
    for (const [side, share] of Object.entries(box)) seen.style.setProperty(side, `${share * 100}%`);
    seen.hidden = box.width > 0.99 && box.height > 0.99;
    scale.hidden = false;
  }

  /** The pixel at a place of the picture. */
  pixelOf({ u, v }) {
    const pixel = (share, size) => clamp(Math.floor(share * size), 0, size - 1);
    return [pixel(u, this.width), pixel(v, this.height)];
  }

  /** The pixel at which an event happened in a frame, the nearest where it is outside the picture. */
  pixelAt(pane, event) {
    return this.pixelOf(this.zoom.inPicture(placeIn(pane.frame, event)));
  }

  // ---- what lies under the pointer ----

  #inside({ u, v }) {
    return u >= 0 && v >= 0 && u < 1 && v < 1;
  }

  /** pane: the one that the pointer is in, which needs no cross. */
  #tell(place, pane) {
    if (!this.#inside(place)) return this.forget();
    const told = [];
    for (const each of this.panes.filter(({ figure }) => !figure.hidden)) {
      const found = this.read(...this.pixelOf(place), each.number);
      each.readout.hidden = found === null;
      each.cross.hidden = each === pane;
      each.cross.style.setProperty("--u", place.u);
      each.cross.style.setProperty("--v", place.v);
      if (found === null) continue;
      each.readout.textContent = found.text;
      each.readout.style.setProperty("--color", found.color);
      told.push(found.text);
    }
    return told.join(", ");
  }

  forget() {
    for (const { readout, cross } of this.panes) readout.hidden = cross.hidden = true;
  }

  // ---- keys ----

  #key(event) {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    const place = moved(this.cross, event);
    if (place) {
      this.cross = place;
      this.zoom.reveal(place);
      announce(this.#tell(place, null));
    } else if (event.key === "Enter" || event.key === " ") this.tap(...this.pixelOf(this.cross));
    else if (event.key === "+" || event.key === "=") this.zoom.larger();
    else if (event.key === "-") this.zoom.smaller();
    else if (event.key === "0") this.zoom.reset();
    else return;
    event.preventDefault();
  }

  #zoomed(factor) {
    element("zoom-value").textContent = `${Math.round(factor * 100)}%`;
    element("zoom-out").disabled = element("zoom-reset").disabled = factor === 1;
    this.surface.classList.toggle("magnified", this.panes[0].frame.clientWidth * factor > 3 * this.width);
  }

  // ---- before and after ----

  split(on) {
    this.surface.classList.toggle("split", on);
    this.#moveSplit(0.5);
  }

  #moveSplit(share) {
    this.#split = clamp(share, 0, 1);
    this.surface.style.setProperty("--split", this.#split);
    for (const { divider } of this.panes) divider.setAttribute("aria-valuenow", Math.round(this.#split * 100));
  }

  #dividerKey(event) {
    const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };
    if (event.key === "Home" || event.key === "End") this.#moveSplit(event.key === "Home" ? 0 : 1);
    else if (event.key in steps) this.#moveSplit(this.#split + steps[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** A mark at a pixel of a picture, which keeps its size when the picture is enlarged. */
export function place(mark, { x, y }, { width, height }) {
  mark.style.setProperty("--u", (x + 0.5) / width);
  mark.style.setProperty("--v", (y + 0.5) / height);
  return mark;
}
