// The view of confidence: where the model is unsure glows. Asks the service once for each picture looked at so.
import { ask } from "/page/api.js";
import { element, percent, rgb } from "/page/dom.js";
import { HEAT_COLORS } from "/page/heat.js";
import { describe, paintPixels } from "/page/labels.js";
import { readPng } from "/page/png.js";

const CERTAIN = 255; // in the service's picture of confidence
const UNSURE = 0.5;

export class ConfidenceView {
  card = "confidence-card";
  saves = "Confidence";

  /** wait: runs a function with an AbortSignal, and tells people meanwhile and if it fails. */
  constructor(stage, onChange, wait) {
    Object.assign(this, { stage, onChange, wait, picture: null });
    element("confidence-opacity").addEventListener("input", () => this.#dim());
  }

  async show(picture) {
    this.picture = picture;
    this.stage.usePanes([""]);
    this.stage.clear();
    element("confidence-text").textContent = "";
    this.#dim();
    if (picture.confidence === null) {
      await this.wait("Asking for the confidence…", async (signal) => {
        const answer = await ask(`/segment${picture.query({ output: "confidence" })}`, picture.file, { signal });
        picture.confidence = { ...(await readPng(answer.buffer)), buffer: answer.buffer };
      });
    }
    if (this.picture === picture && picture.confidence !== null) this.#draw();
  }

  hide() {
    this.picture = null;
  }

  read(x, y) {
    const { confidence, labels, answer } = this.picture;
    if (confidence === null) return null;
    const at = y * labels.width + x;
    const { name, color } = describe(labels.values[at], answer.model.classes);
    return { text: `${percent(confidence.values[at] / CERTAIN)} sure of ${name}`, color: rgb(color) };
  }

  tap() {}

  asShown() {
    const address = `/segment${this.picture.query({ output: "confidence" })}`;
    return [{ address, name: `${this.picture.stem}-confidence.png`, buffer: this.picture.confidence?.buffer }];
  }

  json() {
    return { address: `/segment${this.picture.query({ output: "json" })}`, name: `${this.picture.stem}-classes.json` };
  }

  #draw() {
    const { values } = this.picture.confidence;
    const colors = Uint32Array.from({ length: 256 }, (_, value) => HEAT_COLORS[CERTAIN - value]);
    paintPixels(this.stage.panes[0].canvas, this.picture.confidence, colors);
    const histogram = new Uint32Array(256);
    for (let i = 0; i < values.length; i++) histogram[values[i]]++;
    const sum = histogram.reduce((total, pixels, value) => total + pixels * value, 0);
    const unsure = histogram.slice(0, Math.ceil(UNSURE * CERTAIN)).reduce((total, pixels) => total + pixels, 0);
    element("confidence-text").textContent =
      `On average ${percent(sum / values.length / CERTAIN)} sure; ` +
      `less than ${percent(UNSURE)} sure of ${percent(unsure / values.length)} of the picture.`;
  }

  #dim() {
    const { value } = element("confidence-opacity");
    element("confidence-opacity-value").textContent = `${value}%`;
    this.stage.setLook({ grey: true, opacity: value / 100 });
  }
}
