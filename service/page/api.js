// Talks to the service. One request a picture: the labels; everything that the page shows follows from them.

/** An error with a title and a text for people. */
export class ServiceError extends Error {
  constructor(title, detail) {
    super(detail);
    this.title = title;
  }
}

/** The models that are served, the default first; waits while the service is still loading them. */
export async function fetchModels(onWait) {
  for (;;) {
    const response = await fetch("/models");
    const models = response.ok ? await response.json() : [];
    if (models.length) return models;
    onWait();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** The query string that the options stand for; what is the default is left out. */
export function queryOf({ model, scales, flip }) {
  const query = new URLSearchParams();
  if (model) query.set("model", model);
  if (scales.join() !== "1") query.set("scales", scales.join());
  if (flip) query.set("flip", "true");
  const text = query.toString().replaceAll("%2C", ",");
  return text ? `?${text}` : "";
}

/**
 * Sends a picture and gives {buffer, timings}. onProgress gets the sent fraction, 1 once all has been sent.
 * XMLHttpRequest, since fetch does not tell how much of an upload has gone.
 */
export function segment(file, options, signal, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/segment${queryOf(options)}`);
    request.responseType = "arraybuffer";
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.upload.onload = () => onProgress(1);
    request.onload = () => {
      if (request.status === 200) {
        resolve({ buffer: request.response, timings: parseTimings(request.getResponseHeader("Server-Timing")) });
      } else {
        reject(problemOf(request));
      }
    };
    request.onerror = () =>
      reject(new ServiceError("No answer", "The service cannot be reached. Is it still running? Then try again."));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}

function problemOf(request) {
  try {
    const problem = JSON.parse(new TextDecoder().decode(request.response));
    const wait = request.getResponseHeader("Retry-After");
    const hint = wait ? ` (Try again in ${wait} s.)` : "";
    return new ServiceError(problem.title, problem.detail + hint);
  } catch {
    return new ServiceError(`Error ${request.status}`, "The service gave an answer that this page does not understand.");
  }
}

/** {decode: 8.1, queue: 0.1, …} in milliseconds. */
function parseTimings(header) {
  const entries = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)];
  return Object.fromEntries(entries.map(([, name, ms]) => [name, Number(ms)]));
}
