// The strip of thumbnails: which pictures there are, how each fares, which one is looked at.
import { element, make } from "/page/dom.js";

const TOLD = {
  waiting: "waits for its turn",
  sending: "is being sent",
  working: "is being labelled",
  retrying: "waits for the service",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
};

export class Strip {
  #entries = new Map(); // of each picture, its element and its button

  /** onChoose, onRemove: get a picture. */
  constructor(onChoose, onRemove) {
    Object.assign(this, { onChoose, onRemove });
  }

  add(picture) {
    const image = make("img", { src: picture.url, alt: "" });
    image.addEventListener("error", () => (image.hidden = true)); // its name's end is seen instead
    const button = make("button", { type: "button", class: "thumb", title: picture.name }, image);
    button.append(make("span", { class: "kind", textContent: picture.name.split(".").at(-1).slice(0, 5) }));
    button.append(make("span", { class: "state" }));
    button.addEventListener("click", () => this.onChoose(picture));
    const remove = make("button", { type: "button", class: "icon remove", textContent: "×" });
    remove.setAttribute("aria-label", `Remove ${picture.name}`);
    remove.addEventListener("click", () => this.onRemove(picture));
    const item = make("li", {}, button, remove);
    element("strip").insertBefore(item, element("strip-more"));
    this.#entries.set(picture, { item, button, image });
  }

  /** Shows how a picture fares. */
  update(picture) {
    const { button, image } = this.#entries.get(picture);
    button.dataset.state = picture.state;
    button.setAttribute("aria-label", `${picture.name}, ${TOLD[picture.state]}`);
    if (image.src !== picture.url) Object.assign(image, { src: picture.url, hidden: false });
  }

  choose(chosen) {
    for (const [picture, { button }] of this.#entries) {
      if (picture === chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    const [strip, item] = [element("strip"), this.#entries.get(chosen)?.item];
    if (item) strip.scrollLeft = item.offsetLeft - (strip.clientWidth - item.clientWidth) / 2;
  }

  remove(picture) {
    this.#entries.get(picture).item.remove();
    this.#entries.delete(picture);
  }

  focus(picture) {
    this.#entries.get(picture)?.button.focus();
  }
}
