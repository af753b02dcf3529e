// Asks what points of a picture collect and distribute, and keeps the answers. Not here: showing them (explorer.js).
import { ask, jsonOf, queryOf, ServiceError } from "/page/api.js";
import { Heat } from "/page/heat.js";

const PAUSE_MS = 120; // before a request, so that a point that is being moved is asked for where it rests
const MOST_KEPT = 200; // answers for each picture

/** What /attention is asked about a picture, at a scale. */
export function attentionAddress(picture, scale, points, more = {}) {
  const list = (axis) => points.map((point) => point[axis]).join();
  const { model } = picture.answer.options;
  return `/attention${queryOf({ model, x: list("x"), y: list("y"), scale: scale === 1 ? "" : scale, ...more })}`;
}

const keyOf = (picture, scale, { x, y }) => [picture.answer.model.name, scale, x, y].join("|");

/** {collect, distribute} of a point as Heat; undefined until the service has told. */
export const heatsOf = (picture, scale, point) => picture.attention.get(keyOf(picture, scale, point));

/** One request at a time; what was wished for in the meantime follows. */
export class Teller {
  #wish = null;
  #timer = 0;
  #aborter = null;

  /** onTold: an answer has come. onBusy: text, "" when nothing runs. onError: a ServiceError, null once it is over. */
  constructor({ onTold, onBusy, onError }) {
    Object.assign(this, { onTold, onBusy, onError });
  }

  /** Asks for the points of a picture that are not known yet. */
  want(picture, scale, points) {
    this.#wish = { picture, scale, points };
    clearTimeout(this.#timer);
    if (!this.#aborter) this.#timer = setTimeout(() => this.#ask(), PAUSE_MS);
  }

  /** Forgets the wish and ends the request that runs. */
  stop() {
    clearTimeout(this.#timer);
    this.#wish = null;
    this.#aborter?.abort();
    this.#aborter = null;
    this.onBusy("");
  }

  async #ask() {
    const { picture, scale, points } = this.#wish;
    this.#wish = null;
    const missing = points.filter((point) => !heatsOf(picture, scale, point)).map(({ x, y }) => ({ x, y }));
    if (!missing.length) return;
    const aborter = new AbortController();
    this.#aborter = aborter;
    this.onBusy("Asking…");
    try {
      const answer = await ask(attentionAddress(picture, scale, missing), picture.file, {
        signal: aborter.signal,
        onWait: (seconds) => this.onBusy(`The service is busy: asking again in ${seconds} s.`),
      });
      if (aborter.signal.aborted) return;
      keep(picture, scale, jsonOf(answer));
      this.onError(null);
      this.onTold();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ServiceError)) throw error;
      this.onError(error);
    } finally {
      if (this.#aborter === aborter) {
        this.#aborter = null;
        this.onBusy("");
        if (this.#wish) this.#ask();
      }
    }
  }
}

function keep(picture, scale, { points, image }) {
  for (const told of points) {
    const directions = picture.answer.model.attention.filter((direction) => direction in told);
    const heats = directions.map((direction) => [direction, new Heat(told[direction], told.window, told.cells, image)]);
    picture.attention.set(keyOf(picture, scale, told), Object.fromEntries(heats));
  }
  for (const key of picture.attention.keys()) {
    if (picture.attention.size <= MOST_KEPT) break;
    picture.attention.delete(key);
  }
}
