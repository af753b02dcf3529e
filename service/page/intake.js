// How pictures come in: chosen, dropped, pasted, or one of the samples.
import { element, make } from "/page/dom.js";

const SAMPLES = [
  { file: "street.jpg", name: "A street", credit: "painted by a program" },
  { file: "avenue.jpg", name: "An avenue", credit: "painted by a program" },
  { file: "pavilion.jpg", name: "A pavilion", credit: "photograph by danielbuechele, CC BY 2.0" },
];

/** onFiles: gets files, in order, and the address of the sample that they are, else null. */
export function takeIn(onFiles, onFail) {
  const chooser = element("file");
  for (const button of document.querySelectorAll(".choose-files")) {
    button.addEventListener("click", () => chooser.click());
  }
  chooser.addEventListener("change", () => {
    const files = [...chooser.files];
    chooser.value = ""; // so that the same file can be chosen again
    if (files.length) onFiles(files, null);
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) onFiles(files, null);
  });
  watchDrags((files) => onFiles(files, null));
  element("samples").append(...SAMPLES.map((sample) => sampleButton(sample, onFiles, onFail)));
}

function sampleButton({ file, name, credit }, onFiles, onFail) {
  const address = `/page/samples/${file}`;
  const picture = make("img", { src: address, alt: "", width: 160, height: 120 });
  const button = make("button", { type: "button", class: "sample" }, picture, make("span", { textContent: name }));
  button.title = `${name}: ${credit}`;
  button.addEventListener("click", async () => {
    try {
      const response = await fetch(address);
      if (!response.ok) throw new TypeError(`status ${response.status}`);
      onFiles([new File([await response.blob()], file, { type: "image/jpeg" })], address);
    } catch {
      onFail();
    }
  });
  return make("li", {}, button);
}

function watchDrags(onFiles) {
  const veil = element("veil");
  let depth = 0; // dragenter and dragleave come for every element that is crossed
  const end = () => {
    depth = 0;
    veil.hidden = true;
  };
  document.addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    veil.hidden = false;
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) end();
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    end();
    const files = [...event.dataTransfer.files];
    if (files.length) onFiles(files);
  });
}
