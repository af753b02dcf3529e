// The view of attention: points of a picture, and what each collects from and distributes to (paper, Fig. 6), asked
// of the service while they are moved. Not here: asking (attention.js), marks and list (points.js), colours (heat.js).
import { attentionAddress, heatsOf, Teller } from "/page/attention.js";
import { announce, chosen, clamp, element, rgb, times } from "/page/dom.js";
import { describe } from "/page/labels.js";
import { MOST_POINTS, Points, sentenceOf, TITLES } from "/page/points.js";

const SMALLEST_SCALE = 0.25; // that services take

export class AttentionView {
  card = "attention-card";
  saves = "Heat";

  /** models: () → all that are served. onError: tells people of a ServiceError, or that it is over (null). */
  constructor(stage, onChange, { models, onError }) {
    Object.assign(this, { stage, onChange, models, picture: null });
    this.points = new Points(stage, {
      onMove: (number, x, y) => this.#move(number, x, y),
      onChoose: (number) => this.#choose(number),
      onRemove: (number) => this.#remove(number),
    });
    this.teller = new Teller({
      onTold: () => this.#told(),
      onBusy: (text) => (element("attention-busy").textContent = text),
      onError,
    });
    element("strength").addEventListener("input", () => this.#look());
    for (const input of document.querySelectorAll("[name=direction], [name=reach]")) {
      input.addEventListener("change", () => this.#refresh());
    }
    element("add-point").addEventListener("click", () => this.#add());
  }

  show(picture) {
    this.picture = picture;
    this.stage.clear();
    const { model } = picture.answer;
    const can = model.attention.length > 0;
    element("attention-can").hidden = !can;
    element("attention-cannot").hidden = can;
    if (!can) {
      element("attention-cannot").textContent = whyNot(this.models());
      this.stage.usePanes([""]);
      this.stage.setLook({ grey: false, opacity: 0 });
      return;
    }
    element("directions").hidden = model.attention.length < 2;
    element("reaches").hidden = wholeScale(picture) >= 1;
    const { width, height } = picture.labels;
    if (!picture.points.length) picture.points = [{ x: width >> 1, y: height >> 1 }];
    this.points.build(picture);
    this.#refresh();
  }

  hide() {
    this.teller.stop();
  }

  read(x, y, number) {
    const { labels, answer } = this.picture;
    const value = this.#heats()?.[this.#shown()[number]]?.at(x, y) ?? null;
    if (value === null) return null;
    const { name, color } = describe(labels.values[y * labels.width + x], answer.model.classes);
    return { text: `${times(value)} even · ${name}`, color: rgb(color) };
  }

  tap(x, y) {
    if (this.picture.points.length) this.#move(this.picture.point, x, y);
  }

  asShown() {
    const { points, point, stem } = this.picture;
    if (!points.length) return [];
    const alpha = element("strength").value / 100;
    return this.#shown().map((direction) => ({
      address: attentionAddress(this.picture, this.#scale(), [points[point]], { output: "overlay", direction, alpha }),
      name: `${stem}-${direction}-${points[point].x}-${points[point].y}.png`,
    }));
  }

  json() {
    const { points, stem } = this.picture;
    return { address: attentionAddress(this.picture, this.#scale(), points), name: `${stem}-attention.json` };
  }

  /** The scale at which the network is to look. */
  #scale() {
    return chosen("reach") === "whole" ? wholeScale(this.picture) : 1;
  }

  /** The directions that are on the stage. */
  #shown() {
    const { attention } = this.picture.answer.model;
    const wanted = chosen("direction");
    return wanted === "both" || !attention.includes(wanted) ? attention : [wanted];
  }

  #heats(number = this.picture.point) {
    const point = this.picture.points[number];
    return point && heatsOf(this.picture, this.#scale(), point);
  }

  // ---- points ----

  #move(number, x, y) {
    const point = this.picture.points[number];
    if (point.x === x && point.y === y) return;
    Object.assign(point, { x, y });
    this.picture.point = number;
    this.#refresh();
  }

  #choose(number) {
    if (this.picture.point === number) return;
    this.picture.point = number;
    this.#refresh();
  }

  #add() {
    const { points, labels } = this.picture;
    points.push(farthest(points, labels));
    this.picture.point = points.length - 1;
    this.points.build(this.picture);
    this.#refresh();
    announce(`Point ${points.length} is in the picture: click where it belongs, or move it with the arrow keys.`);
  }

  #remove(number) {
    const { points } = this.picture;
    if (points.length === 1) return;
    points.splice(number, 1);
    this.picture.point = Math.min(this.picture.point, points.length - 1);
    this.points.build(this.picture);
    this.#refresh();
  }

  // ---- drawing ----

  #refresh() {
    element("add-point").disabled = this.picture.points.length >= MOST_POINTS;
    const number = this.picture.point + 1;
    this.stage.usePanes(this.#shown().map((direction) => `Point ${number} ${TITLES[direction].toLowerCase()}`));
    this.#look();
    this.#draw();
    this.teller.want(this.picture, this.#scale(), this.picture.points);
    this.onChange();
  }

  #told() {
    this.#draw();
    const heats = this.#heats();
    if (!heats) return; // the point has moved on
    const { labels, answer, point } = this.picture;
    announce(`Point ${point + 1}. ${sentenceOf(heats, labels, answer.model.classes)}`);
  }

  #draw() {
    this.points.update(this.picture, this.picture.points.map((_, number) => this.#heats(number)));
    const heats = this.#heats();
    if (!heats) return; // what was told last stays, rather than nothing
    this.#shown().forEach((direction, i) => this.stage.draw(i, heats[direction]));
  }

  #look() {
    const { value } = element("strength");
    element("strength-value").textContent = `${value}%`;
    this.stage.setLook({ grey: true, opacity: value / 100 });
    this.onChange();
  }
}

/** The largest scale, up to 1, at which the whole picture fits one window of its model. */
export function wholeScale({ labels, answer: { model } }) {
  if (model.test_mode === "whole") return 1;
  const [long, short] = [Math.max(labels.width, labels.height), Math.min(labels.width, labels.height)];
  const atOne = Math.min(model.base_size / long, (model.base_short ?? Infinity) / short);
  const [cropHeight, cropWidth] = model.crop;
  const fits = Math.min(cropHeight / (labels.height * atOne), cropWidth / (labels.width * atOne));
  return clamp(Math.floor(fits * 1000) / 1000, SMALLEST_SCALE, 1);
}

/** Of a few places, the one that is farthest from all points. */
function farthest(points, { width, height }) {
  const places = [1, 3, 5].flatMap((row) => [1, 3, 5].map((column) => [column / 6, row / 6]));
  const room = ([u, v]) => Math.min(...points.map(({ x, y }) => Math.hypot(x / width - u, y / height - v)));
  const [u, v] = places.reduce((best, one) => (room(one) > room(best) ? one : best));
  return { x: Math.floor(u * width), y: Math.floor(v * height) };
}

function whyNot(models) {
  const able = models.filter(({ attention }) => attention.length).map(({ name }) => name);
  const mend = able.length
    ? `Choose ${able.join(" or ")} at the top of the page.`
    : "Export a PSANet checkpoint anew, python -m export.onnx --ckpt, and serve that bundle.";
  return `This model does not tell what it attends to: it has no point-wise spatial attention, or its file leaves it out. ${mend}`;
}
