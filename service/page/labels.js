// What a map of class ids says, and how it is painted. Not here: reading it (png.js), the legend (classes.js).

const IDS = 65536;
const MOST_PAINTED = 16e6; // pixels; some browsers draw no larger canvas

/** Classes present, largest first: [{id, name, color, pixels, share}]. */
export function countClasses(ids, classes) {
  const histogram = new Uint32Array(IDS);
  for (let i = 0; i < ids.length; i++) histogram[ids[i]]++;
  const present = [];
  histogram.forEach((pixels, id) => {
    if (pixels) present.push({ id, ...describe(id, classes), pixels, share: pixels / ids.length });
  });
  return present.sort((a, b) => b.pixels - a.pixels);
}

/** {name, color} of a class. */
export function describe(id, classes) {
  const { name, color } = classes[id] ?? { name: `class ${id}`, color: [127, 127, 127] };
  return { name, color };
}

/** Paints the classes that are shown onto a canvas, in full colour; the others stay transparent. */
export function paintClasses(canvas, labels, classes, hidden) {
  const colors = new Uint32Array(IDS);
  for (const { id, color } of classes) if (!hidden.has(id)) colors[id] = packed(...color, 255);
  paintPixels(canvas, labels, colors);
}

/** Paints a map of values onto a canvas: each value in its packed colour. */
export function paintPixels(canvas, { width, height, values }, colors) {
  const step = Math.ceil(Math.sqrt((width * height) / MOST_PAINTED));
  canvas.width = Math.ceil(width / step);
  canvas.height = Math.ceil(height / step);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let y = 0, to = 0; y < height; y += step) {
    for (let x = 0, from = y * width; x < width; x += step, from += step) pixels[to++] = colors[values[from]];
  }
  context.putImageData(image, 0, 0);
}

const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** A colour as the 32 bits that a canvas keeps. */
export function packed(red, green, blue, alpha) {
  const bytes = LITTLE_ENDIAN ? [alpha, blue, green, red] : [red, green, blue, alpha];
  return bytes.reduce((word, byte) => ((word << 8) | byte) >>> 0, 0);
}
