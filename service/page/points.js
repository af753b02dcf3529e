// The points of a picture: their marks on it and their list in the panel, each with small maps and a sentence.
import { element, make, percent, times } from "/page/dom.js";
import { describe } from "/page/labels.js";
import { moved, place } from "/page/stage.js";

export const MOST_POINTS = 6;
export const TITLES = { collect: "Collects from", distribute: "Distributes to" };
const COLORS = [[230, 30, 30], [40, 110, 255], [30, 170, 60], [240, 160, 0], [170, 60, 200], [0, 170, 180]];
const MINI_PX = 160;
const NAMED = 3; // classes in a sentence
const WORTH_NAMING = 0.03;

/** What a point attends to, in words: what it gets from which classes. */
export function sentenceOf(heats, labels, classes) {
  const parts = Object.entries(heats).map(([direction, heat]) => {
    if (heat.low < 0) return `${TITLES[direction]}: up to ${times(heat.top)}`;
    const named = heat.byClass(labels).slice(0, NAMED).filter(({ share }) => share >= WORTH_NAMING);
    const shares = named.map(({ id, share }) => `${describe(id, classes).name} ${percent(share)}`);
    return `${TITLES[direction]} ${shares.join(", ")}`;
  });
  return `${parts.join(". ")}.`;
}

/** Keeps marks and list like the points of the picture that is looked at. */
export class Points {
  #entries = [];

  /** onMove: (number, x, y). onChoose, onRemove: (number). All of them change the picture's points. */
  constructor(stage, { onMove, onChoose, onRemove }) {
    Object.assign(this, { stage, onMove, onChoose, onRemove });
  }

  /** Builds all anew: for another picture, or another number of points. */
  build(picture) {
    const focus = document.activeElement?.dataset.point;
    const onMark = document.activeElement?.classList.contains("mark");
    this.#entries = picture.points.map((_, number) => ({
      ...this.#entry(picture, number),
      marks: this.stage.panes.map((pane) => this.#mark(pane, number)),
    }));
    element("points").replaceChildren(...this.#entries.map(({ item }) => item));
    this.stage.panes.forEach(({ marks }, i) => marks.replaceChildren(...this.#entries.map((entry) => entry.marks[i])));
    const next = this.#entries[Math.min(Number(focus), this.#entries.length - 1)];
    if (focus !== undefined) (onMark ? next.marks[0] : next.choose).focus();
  }

  /** Shows the points where they are now, with what is known of them. heats: for each, {collect, distribute}. */
  update(picture, heats) {
    const { labels, answer, points } = picture;
    this.#entries.forEach(({ item, choose, name, sentence, minis, marks }, number) => {
      const { x, y } = points[number];
      const label = describe(labels.values[y * labels.width + x], answer.model.classes).name;
      const chosen = number === picture.point;
      item.classList.toggle("chosen", chosen);
      choose.setAttribute("aria-pressed", String(chosen));
      name.textContent = `${label} at ${x}, ${y}`;
      item.classList.toggle("stale", !heats[number]);
      if (heats[number]) sentence.textContent = sentenceOf(heats[number], labels, answer.model.classes);
      for (const mark of marks) {
        mark.setAttribute("aria-label", `Point ${number + 1}, ${label} at ${x}, ${y}: arrow keys move it`);
        mark.classList.toggle("chosen", chosen);
        place(mark, { x, y }, labels);
      }
      for (const [direction, canvas] of minis) heats[number]?.[direction].paint(canvas, MINI_PX);
    });
  }

  #entry(picture, number) {
    const { answer, url, labels } = picture;
    const name = make("span", { class: "name" });
    const data = { point: number };
    const choose = make("button", { type: "button", class: "choose", data }, badge(number), name);
    choose.addEventListener("click", () => this.onChoose(number));
    const remove = make("button", { type: "button", class: "icon", data, textContent: "×" });
    remove.setAttribute("aria-label", `Remove point ${number + 1}`);
    remove.hidden = picture.points.length === 1;
    remove.addEventListener("click", () => this.onRemove(number));
    const minis = answer.model.attention.map((direction) => [direction, make("canvas")]);
    const figures = minis.map(([direction, canvas]) =>
      make(
        "figure",
        { class: "mini", style: { "--ratio": `${labels.width} / ${labels.height}` } },
        make("div", {}, make("img", { src: url, alt: "" }), canvas),
        make("figcaption", { textContent: TITLES[direction] }),
      ),
    );
    const sentence = make("p", { class: "sentence", textContent: "…" });
    const head = make("div", { class: "point-head" }, choose, remove);
    const item = make("li", { class: "point" }, head, make("div", { class: "minis" }, ...figures), sentence);
    return { item, choose, name, sentence, minis };
  }

  #mark(pane, number) {
    const mark = badge(number, "button");
    mark.addEventListener("focus", () => this.onChoose(number));
    mark.addEventListener("pointerdown", (event) => {
      mark.setPointerCapture(event.pointerId);
      this.onChoose(number);
    });
    mark.addEventListener("pointermove", (event) => {
      if (mark.hasPointerCapture(event.pointerId)) this.onMove(number, ...this.stage.pixelAt(pane, event));
    });
    mark.addEventListener("keydown", (event) => {
      const style = getComputedStyle(mark);
      const from = { u: Number(style.getPropertyValue("--u")), v: Number(style.getPropertyValue("--v")) };
      const to = moved(from, event);
      if (to) this.onMove(number, ...this.stage.pixelOf(to));
      else if (event.key === "Delete" || event.key === "Backspace") this.onRemove(number);
      else return;
      if (to) this.stage.zoom.reveal(to);
      event.preventDefault();
    });
    return mark;
  }
}

function badge(number, tag = "span") {
  const [red, green, blue] = COLORS[number];
  const bright = 0.299 * red + 0.587 * green + 0.114 * blue > 110;
  const style = { "--mark": `rgb(${red} ${green} ${blue})`, "--on-mark": bright ? "#000" : "#fff" };
  const made = make(tag, { class: tag === "button" ? "mark" : "badge", style, textContent: number + 1 });
  made.dataset.point = number;
  if (tag === "button") made.type = "button";
  else made.setAttribute("aria-hidden", "true");
  return made;
}
