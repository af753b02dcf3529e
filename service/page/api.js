// Talks to the service: sends a picture, waits as long as it is asked to, and turns problems into words.

const TRIES = 6;
const LONGEST_WAIT_S = 120;
const KEY = "psanet-key";

/** An error with a title and a text for people. waitS: seconds after which it is worth another try, or null. */
export class ServiceError extends Error {
  constructor(title, detail, { status = 0, waitS = null } = {}) {
    super(detail);
    this.title = title;
    this.status = status;
    this.waitS = waitS;
  }
}

let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // Storage is switched off: the key lasts as long as the page.
}

/** The API key, kept until the tab is closed; "" where there is none. */
export const readKey = () => key;

export function writeKey(text) {
  key = text;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // As above.
  }
}

const keyHeaders = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** The models that are served, the default first; waits while the service is loading them. */
export async function fetchModels(onWait) {
  for (;;) {
    const response = await fetch("/models", { headers: keyHeaders() });
    const body = await response.arrayBuffer();
    if (response.ok) {
      const models = JSON.parse(new TextDecoder().decode(body));
      if (models.length) return models;
    } else {
      const problem = problemOf(response.status, body, response.headers.get("Retry-After"));
      if (problem.waitS === null) throw problem;
    }
    onWait();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** "?a=1&b=2" of the values that are not null, "" where there are none. Commas stay readable. */
export function queryOf(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  const text = new URLSearchParams(given).toString().replaceAll("%2C", ",");
  return text ? `?${text}` : "";
}

/**
 * Posts a picture and gives {buffer, timings}. A service that is busy says when to come again, and is asked again.
 *
 * onSent: gets the sent fraction, 1 once all has been sent. onWait: gets the seconds left and the number of the
 * coming try, every second. signal: ends it all with an AbortError.
 */
export async function ask(address, file, { signal, onSent = () => {}, onWait = () => {} }) {
  for (let number = 1; ; number++) {
    try {
      return await post(address, file, signal, onSent);
    } catch (error) {
      const wait = error instanceof ServiceError ? error.waitS : null;
      if (wait === null || wait > LONGEST_WAIT_S) throw error;
      if (number === TRIES) {
        const detail = `${error.message} (It was tried ${TRIES} times.)`;
        throw new ServiceError(error.title, detail, { status: error.status });
      }
      for (let left = wait; left > 0; left--) {
        onWait(left, number + 1);
        await pause(1000, signal);
      }
    }
  }
}

/** Of a picture's answer as JSON. */
export const jsonOf = ({ buffer }) => JSON.parse(new TextDecoder().decode(buffer));

/** One request. XMLHttpRequest, since fetch does not tell how much of an upload has gone. */
function post(address, file, signal, onSent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address);
    request.responseType = "arraybuffer";
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.upload.onload = () => onSent(1);
    request.onload = () => {
      const header = (name) => request.getResponseHeader(name);
      if (request.status === 200) resolve({ buffer: request.response, timings: timingsIn(header("Server-Timing")) });
      else reject(problemOf(request.status, request.response, header("Retry-After")));
    };
    request.onerror = () =>
      reject(
        new ServiceError(
          "No answer",
          "The service cannot be reached, or it hung up during the upload. Is it still running? Then try again.",
        ),
      );
    const abort = () => request.abort();
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onloadend = () => signal.removeEventListener("abort", abort);
    signal.addEventListener("abort", abort, { once: true });
    signal.throwIfAborted();
    request.send(file);
  });
}

function problemOf(status, body, retryAfter) {
  const known = { status, waitS: [429, 503].includes(status) ? secondsOf(retryAfter) : null };
  try {
    const { title, detail } = JSON.parse(new TextDecoder().decode(body));
    if (!title || !detail) throw new SyntaxError("no problem document");
    return new ServiceError(title, detail, known);
  } catch {
    const text = "The answer is none that this page understands. A proxy in between, perhaps?";
    return new ServiceError(`Error ${status}`, text, known);
  }
}

/** Retry-After, which is seconds or a date, as whole seconds; null where there is none. */
function secondsOf(header) {
  if (header === null) return null;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(1, Math.ceil(seconds));
}

/** {decode: 8.1, queue: 0.1, …} in milliseconds. */
function timingsIn(header) {
  const entries = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)];
  return Object.fromEntries(entries.map(([, name, ms]) => [name, Number(ms)]));
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal.addEventListener("abort", abort, { once: true });
  });
}
