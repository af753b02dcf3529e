// The pictures that were given, each with its own answer, and the line in which they wait for the service.
import { ask, queryOf, ServiceError } from "/page/api.js";
import { countClasses } from "/page/labels.js";
import { readPng } from "/page/png.js";

const AT_ONCE = 2; // one is sent while the other is worked on

/** A picture. state: waiting, sending, working, retrying, done, failed or cancelled. */
export class Picture {
  constructor(file, source = null) {
    this.file = file;
    this.source = source; // address of a sample, else null
    this.name = file.name || "picture.png";
    this.url = URL.createObjectURL(file); // what the browser shows of it
    this.drawn = false; // by the service
    this.state = "waiting";
    this.progress = 0; // sent fraction
    this.waitS = 0; // seconds until the next try
    this.error = null; // ServiceError
    this.answer = null; // {buffer, model, options, timings, took}
    this.labels = null; // of the answer, read when the picture is looked at
    this.classes = [];
    this.hidden = new Set(); // ids of classes that are switched off
    this.confidence = null;
    this.points = []; // {x, y} whose attention is asked for
    this.point = 0; // the one that is looked at
    this.attention = new Map(); // what was told of points, by what was asked
    this.aborter = null;
  }

  get stem() {
    return this.name.replace(/\.[^.]+$/, "");
  }

  /** The query that asks about it as its answer was made, with more values. */
  query(more = {}) {
    return queryOf({ ...this.answer.options, ...more });
  }

  /** Reads the labels of the answer, once. */
  async read() {
    if (this.labels === null) {
      this.labels = await readPng(this.answer.buffer);
      this.classes = countClasses(this.labels.values, this.answer.model.classes);
    }
  }

  /** Has the service draw it, for a browser that cannot. */
  async drawnByService(signal) {
    const query = this.query({ output: "overlay", alpha: 0, format: "jpeg" });
    const { buffer } = await ask(`/segment${query}`, this.file, { signal });
    URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(new Blob([buffer], { type: "image/jpeg" }));
    this.drawn = true;
  }

  release() {
    this.aborter?.abort();
    URL.revokeObjectURL(this.url);
  }
}

/** Sends pictures, a few at a time. onChange gets the picture whose state changed. */
export class Line {
  #waiting = [];
  #running = 0;

  constructor(onChange) {
    this.onChange = onChange;
  }

  /** Puts a picture at the end. options: values of the query; model: as /models has it. */
  add(picture, options, model) {
    picture.aborter?.abort();
    const aborter = new AbortController();
    Object.assign(picture, { aborter, error: null, progress: 0 });
    this.#turn(picture, "waiting");
    const job = { picture, options, model, signal: aborter.signal };
    this.#waiting.push(job);
    aborter.signal.addEventListener("abort", () => this.#drop(job), { once: true });
    this.#next();
  }

  #drop(job) {
    const at = this.#waiting.indexOf(job);
    if (at < 0) return; // it runs, and ends by itself
    this.#waiting.splice(at, 1);
    if (job.picture.aborter?.signal === job.signal) this.#cancelled(job.picture);
  }

  #next() {
    while (this.#running < AT_ONCE && this.#waiting.length) {
      this.#running += 1;
      this.#run(this.#waiting.shift()).finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }

  async #run({ picture, options, model, signal }) {
    const started = performance.now();
    const mine = () => picture.aborter?.signal === signal; // not begun anew in the meantime
    this.#turn(picture, "sending");
    try {
      const answer = await ask(`/segment${queryOf(options)}`, picture.file, {
        signal,
        onSent: (progress) => mine() && this.#turn(picture, progress < 1 ? "sending" : "working", { progress }),
        onWait: (waitS) => mine() && this.#turn(picture, "retrying", { waitS }),
      });
      if (!mine()) return;
      if (picture.answer?.model !== model) picture.hidden = new Set();
      const took = performance.now() - started;
      Object.assign(picture, { answer: { ...answer, model, options, took }, labels: null, confidence: null });
      this.#end(picture, "done");
    } catch (error) {
      if (!mine()) return;
      if (error.name === "AbortError") this.#cancelled(picture);
      else if (error instanceof ServiceError) this.#end(picture, "failed", { error });
      else throw error;
    }
  }

  #cancelled(picture) {
    this.#end(picture, picture.answer ? "done" : "cancelled");
  }

  #end(picture, state, more = {}) {
    picture.aborter = null;
    this.#turn(picture, state, more);
  }

  #turn(picture, state, more = {}) {
    Object.assign(picture, { state, ...more });
    this.onChange(picture);
  }
}
