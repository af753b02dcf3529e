// Zooming and moving a picture: wheel, pinch, drag and keys. Positions are fractions of the frame, 0..1 each way.
import { clamp } from "/page/dom.js";

const MOST = 16;
const STEP = 1.5;
const STILL_PX = 5; // a pointer that moves less has tapped
const CALM_MS = 400; // a wheel that turns on after the page has come to its top means the page

let scrolled = -CALM_MS;
addEventListener("scroll", () => (scrolled = performance.now()), { passive: true });

/** What part of a picture its frames show; all frames inside `surface` show the same. onChange gets the factor. */
export class Zoom {
  constructor(surface, onChange) {
    Object.assign(this, { surface, onChange });
    this.reset();
  }

  reset() {
    Object.assign(this, { factor: 1, left: 0, top: 0 });
    this.#apply();
  }

  /** Of a place in the frame, the place in the picture. */
  inPicture({ u, v }) {
    return { u: (u - this.left) / this.factor, v: (v - this.top) / this.factor };
  }

  /** Enlarges by a ratio, so that what is at a place of the frame stays there. */
  by(ratio, { u, v } = { u: 0.5, v: 0.5 }) {
    const held = this.inPicture({ u, v });
    this.factor = clamp(this.factor * ratio, 1, MOST);
    this.#moveTo(u - held.u * this.factor, v - held.v * this.factor);
  }

  larger(place) {
    this.by(STEP, place);
  }

  smaller(place) {
    this.by(1 / STEP, place);
  }

  pan(du, dv) {
    this.#moveTo(this.left + du, this.top + dv);
  }

  /** Moves no further than it takes to show a place of the picture. */
  reveal({ u, v }) {
    const [x, y] = [u * this.factor + this.left, v * this.factor + this.top];
    this.pan(clamp(x, 0.05, 0.95) - x, clamp(y, 0.05, 0.95) - y);
  }

  #moveTo(left, top) {
    this.left = clamp(left, 1 - this.factor, 0);
    this.top = clamp(top, 1 - this.factor, 0);
    this.#apply();
  }

  #apply() {
    const style = this.surface.style;
    style.setProperty("--zoom", this.factor);
    style.setProperty("--left", this.left);
    style.setProperty("--top", this.top);
    this.surface.classList.toggle("zoomed", this.factor > 1);
    this.onChange(this.factor);
  }
}

/** Where in a frame an event happened. */
export function placeIn(frame, { clientX, clientY }) {
  const box = frame.getBoundingClientRect();
  return { u: (clientX - box.left) / box.width, v: (clientY - box.top) / box.height };
}

/**
 * Lets wheel and pointers move a frame's picture. onHover and onTap get the event and the place in the picture;
 * onLeave nothing. What a finger has told stays when it is lifted.
 */
export function watchPointers(frame, zoom, { onHover, onTap, onLeave }) {
  const pointers = new Map(); // those that are down
  let moved = 0;

  const placeOf = (event) => placeIn(frame, event);
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return { size: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), a, b };
  };
  const hover = (event) => onHover(event, zoom.inPicture(placeOf(event)));

  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("button, [role=slider]")) return;
    if (!pointers.size) moved = 0;
    pointers.set(event.pointerId, event);
    if (pointers.size > 1 || zoom.factor > 1) frame.setPointerCapture(event.pointerId);
    hover(event);
  });
  frame.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (before) drag(before, event);
    if (pointers.size < 2) hover(event);
  });
  for (const type of ["pointerup", "pointercancel"]) {
    frame.addEventListener(type, (event) => {
      const tapped = pointers.size === 1 && pointers.has(event.pointerId) && moved < STILL_PX;
      pointers.delete(event.pointerId);
      if (tapped && type === "pointerup") onTap(event, zoom.inPicture(placeOf(event)));
    });
  }
  frame.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && onLeave());
  frame.addEventListener("wheel", wheel, { passive: false });

  function drag(before, event) {
    const [du, dv] = [event.clientX - before.clientX, event.clientY - before.clientY];
    moved += Math.hypot(du, dv);
    if (pointers.size === 1) {
      pointers.set(event.pointerId, event);
      if (zoom.factor > 1) zoom.pan(du / frame.clientWidth, dv / frame.clientHeight);
    } else {
      const was = spread();
      pointers.set(event.pointerId, event);
      const now = spread();
      zoom.pan(du / 2 / frame.clientWidth, dv / 2 / frame.clientHeight);
      const middle = { clientX: (now.a.clientX + now.b.clientX) / 2, clientY: (now.a.clientY + now.b.clientY) / 2 };
      if (was.size > 0) zoom.by(now.size / was.size, placeOf(middle));
    }
  }

  // The wheel enlarges only where the page has nothing left to scroll upwards, and makes smaller only what is
  // enlarged, so that nobody is caught in the picture.
  function wheel(event) {
    const atTop = scrollY === 0 && performance.now() - scrolled > CALM_MS;
    if (!(event.ctrlKey || zoom.factor > 1 || (event.deltaY < 0 && atTop))) return;
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    zoom.by(Math.exp((-event.deltaY * unit) / (event.ctrlKey ? 100 : 400)), placeOf(event));
  }
}
