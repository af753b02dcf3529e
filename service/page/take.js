// Taking it along: files of what is shown, and the curl line that gives the same.
import { ask, readKey } from "/page/api.js";
import { chosen, element } from "/page/dom.js";

/** The card. now: () → {picture, view} or null. wait: runs a function with an AbortSignal and tells of its fate. */
export class Take {
  constructor(now, wait) {
    Object.assign(this, { now, wait });
    for (const input of document.querySelectorAll("[name=what]")) input.addEventListener("change", () => this.update());
    element("save").addEventListener("click", () => this.#save());
    element("copy").addEventListener("click", copy);
  }

  /** Writes the line anew: what is shown has changed. */
  update() {
    const { picture, view } = this.now() ?? {};
    if (!picture?.labels) return;
    element("what-shown").textContent = view.saves;
    element("curl").textContent = curlOf(picture, this.#wanted(picture, view));
  }

  #wanted(picture, view) {
    const what = chosen("what");
    if (what === "shown") return view.asShown();
    if (what === "json") return [view.json()];
    const { buffer } = picture.answer;
    return [{ address: `/segment${picture.query()}`, name: `${picture.stem}-labels.png`, buffer }];
  }

  async #save() {
    const { picture, view } = this.now();
    for (const { address, name, buffer } of this.#wanted(picture, view)) {
      await this.wait("Preparing the file…", async (signal) => {
        const content = buffer ?? (await ask(address, picture.file, { signal })).buffer;
        offer(new Blob([content], { type: name.endsWith(".json") ? "application/json" : "image/png" }), name);
      });
    }
  }
}

function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Lines for a shell that write the same files. */
export function curlOf({ name: file, source }, wanted) {
  const key = readKey() ? ` -H "Authorization: Bearer $PSANET_API_KEY"` : "";
  // curl reads ; and , in the name of a field's file as its own; in double quotes they are the name's.
  const name = /[;,"\\]/.test(file) ? `"${file.replace(/["\\]/g, "\\$&")}"` : file;
  const lines = wanted.map(
    ({ address, name: out }) =>
      `curl${key} -F ${quoted(`image=@${name}`)} \\\n  ${quoted(location.origin + address)} \\\n  -o ${quoted(out)}`,
  );
  const sample = source === null ? [] : [`curl -O ${quoted(location.origin + source)}`];
  return [...sample, ...lines].join("\n");
}

const quoted = (text) => (/^[\w./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

async function copy() {
  const button = element("copy");
  try {
    await navigator.clipboard.writeText(element("curl").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element("curl")); // no clipboard without https: select it instead
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
