// What people are told while they wait, and when something fails.
import { ServiceError } from "/page/api.js";
import { announce, element } from "/page/dom.js";

const WAITING = {
  waiting: () => "Waits for its turn",
  sending: ({ progress }) => `Sending… ${Math.round(progress * 100)}%`,
  working: () => "Labelling…",
  retrying: ({ waitS }) => `The service is busy: trying again in ${waitS} s`,
};
const SPOKEN = {
  retrying: "The service is busy. This page tries again by itself.",
  cancelled: "Cancelled.",
};

export class Status {
  #aborter = null; // of what `wait` runs

  /** now: () → the current picture or null. onIdle: called when a wait is over. */
  constructor(now, onIdle) {
    Object.assign(this, { now, onIdle });
    element("cancel").addEventListener("click", () => (this.#aborter ?? this.now()?.aborter)?.abort());
  }

  /** Shows how the current picture fares. */
  update() {
    const picture = this.now();
    const text = picture?.aborter ? WAITING[picture.state](picture) : "";
    element("busy").hidden = !text;
    if (text) show(text, picture.state === "sending" ? picture.progress : null);
    this.speak(SPOKEN[picture?.state]);
    this.tell(picture?.error ?? null);
  }

  /** Tells screen readers, once. */
  speak(text) {
    if (text && element("status").textContent !== text) announce(text);
  }

  /** Shows an error, or none. */
  tell(error) {
    const alert = element("alert");
    const keyless = error?.status === 401;
    alert.hidden = error === null;
    element("alert-title").textContent = error?.title ?? "";
    element("alert-text").textContent = error?.message ?? "";
    element("key-form").hidden = !keyless;
    element("retry").hidden = keyless || !this.now()?.error;
    if (error !== null) alert.scrollIntoView({ block: "nearest" });
  }

  /** Runs something that takes a while, with a signal that ends it; tells of its errors. */
  wait = async (text, run) => {
    this.#aborter?.abort();
    const aborter = new AbortController();
    this.#aborter = aborter;
    show(text, null);
    element("busy").hidden = false;
    let failure = null;
    try {
      await run(aborter.signal);
    } catch (error) {
      if (error instanceof ServiceError) failure = error;
      else if (error.name !== "AbortError") throw error;
    } finally {
      if (this.#aborter === aborter) {
        this.#aborter = null;
        this.update();
        if (failure) this.tell(failure);
        this.onIdle();
      }
    }
  };
}

function show(text, fraction) {
  element("busy-text").textContent = text;
  if (fraction === null) element("progress").removeAttribute("value");
  else element("progress").value = fraction;
}
