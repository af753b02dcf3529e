// The view of classes: their colours over the picture, and a legend that switches them on and off.
import { element, make, percent, rgb } from "/page/dom.js";
import { describe, paintClasses } from "/page/labels.js";

export class ClassesView {
  card = "classes-card";
  saves = "Overlay"; // what "as shown" is called

  /** stage: the Stage to draw on. onChange: called when what is shown changes. */
  constructor(stage, onChange) {
    Object.assign(this, { stage, onChange, picture: null });
    element("opacity").addEventListener("input", () => this.#dim());
    element("all").addEventListener("click", () => this.#hide([]));
    element("none").addEventListener("click", () => this.#hide(this.picture.classes.map(({ id }) => id)));
  }

  show(picture) {
    this.picture = picture;
    this.stage.usePanes([""]);
    element("legend").replaceChildren(...picture.classes.map((one) => this.#entry(one)));
    this.#paint();
    this.#dim();
  }

  /** What is told of a pixel. */
  read(x, y) {
    const { values, width } = this.picture.labels;
    const { name, color } = describe(values[y * width + x], this.picture.answer.model.classes);
    return { text: name, color: rgb(color) };
  }

  tap() {}

  /** What the service is asked for to get what is shown: [{address, name}]. */
  asShown() {
    const shown = this.picture.classes.filter(({ id }) => !this.picture.hidden.has(id)).map(({ id }) => id);
    const all = shown.length === this.picture.classes.length;
    const alpha = shown.length ? element("opacity").value / 100 : 0;
    const query = this.picture.query({ output: "overlay", alpha, classes: all || !alpha ? "" : shown.join() });
    return [{ address: `/segment${query}`, name: `${this.picture.stem}-overlay.png` }];
  }

  json() {
    return { address: `/segment${this.picture.query({ output: "json" })}`, name: `${this.picture.stem}-classes.json` };
  }

  #entry({ id, name, color, share }) {
    const background = { "background-color": rgb(color) };
    const button = make(
      "button",
      { type: "button", data: { id }, aria: { pressed: !this.picture.hidden.has(id) } },
      make("span", { class: "swatch", style: background }),
      make("span", { class: "name", textContent: name }),
      make("span", { class: "share", textContent: percent(share) }),
      make("span", { class: "bar-share", style: { ...background, width: `${Math.max(0.5, share * 100)}%` } }),
    );
    button.addEventListener("click", () => {
      const { hidden } = this.picture;
      this.#hide(hidden.has(id) ? [...hidden].filter((other) => other !== id) : [...hidden, id]);
    });
    return make("li", {}, button);
  }

  #hide(ids) {
    this.picture.hidden = new Set(ids);
    for (const button of element("legend").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(!this.picture.hidden.has(Number(button.dataset.id))));
    }
    this.#paint();
    this.onChange();
  }

  #paint() {
    const { labels, classes, hidden } = this.picture;
    paintClasses(this.stage.panes[0].canvas, labels, classes, hidden);
    element("all").disabled = hidden.size === 0;
    element("none").disabled = hidden.size === classes.length;
  }

  #dim() {
    const { value } = element("opacity");
    element("opacity-value").textContent = `${value}%`;
    this.stage.setLook({ grey: false, opacity: value / 100 });
    if (this.picture) this.onChange();
  }
}
