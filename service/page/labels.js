// Class ids of a label PNG, exactly: a canvas would give colours, which two classes may share and a browser may shift.

const CHANNELS_OF_TYPE = { 0: 1, 3: 1 };

/** Reads a single-channel PNG (grey or palette, 1 to 16 bits, not interlaced): {width, height, ids}. */
export async function readLabels(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 33 || view.getUint32(0) !== 0x89504e47) throw new Error("The answer is no PNG.");
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  const bits = view.getUint8(24);
  if (!(view.getUint8(25) in CHANNELS_OF_TYPE) || view.getUint8(28) !== 0) throw new Error("The answer is no label PNG.");
  const parts = [];
  for (let at = 8; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at);
    if (view.getUint32(at + 4) === 0x49444154) parts.push(new Uint8Array(buffer, at + 8, size));
    at += size + 12;
  }
  const inflated = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(inflated).arrayBuffer());
  return { width, height, ids: unpack(unfilter(raw, Math.ceil((width * bits) / 8), height, bits), width, height, bits) };
}

/** Undoes the five PNG filters in place and returns the rows without their filter bytes. */
function unfilter(raw, stride, height, bits) {
  const step = Math.max(1, bits >> 3);
  const out = new Uint8Array(stride * height);
  for (let row = 0; row < height; row++) {
    const filter = raw[row * (stride + 1)];
    const from = row * (stride + 1) + 1;
    const to = row * stride;
    for (let i = 0; i < stride; i++) {
      const left = i >= step ? out[to + i - step] : 0;
      const up = row > 0 ? out[to + i - stride] : 0;
      let guess = 0;
      if (filter === 1) guess = left;
      else if (filter === 2) guess = up;
      else if (filter === 3) guess = (left + up) >> 1;
      else if (filter === 4) guess = paeth(left, up, row > 0 && i >= step ? out[to + i - stride - step] : 0);
      out[to + i] = raw[from + i] + guess;
    }
  }
  return out;
}

function paeth(left, up, corner) {
  const toLeft = Math.abs(up - corner);
  const toUp = Math.abs(left - corner);
  const toCorner = Math.abs(left + up - 2 * corner);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

function unpack(rows, width, height, bits) {
  if (bits === 8) return rows;
  const ids = new Uint16Array(width * height);
  const stride = Math.ceil((width * bits) / 8);
  for (let i = 0; i < ids.length; i++) {
    const x = i % width;
    const row = ((i / width) | 0) * stride;
    if (bits === 16) ids[i] = (rows[row + 2 * x] << 8) | rows[row + 2 * x + 1];
    else ids[i] = (rows[row + ((x * bits) >> 3)] >> (8 - bits - ((x * bits) & 7))) & ((1 << bits) - 1);
  }
  return ids;
}

/** Classes present, largest first: [{id, name, color, pixels, share}]. */
export function countClasses(ids, classes) {
  const counts = new Map();
  const histogram = new Uint32Array(65536);
  for (let i = 0; i < ids.length; i++) histogram[ids[i]]++;
  histogram.forEach((pixels, id) => pixels && counts.set(id, pixels));
  return [...counts]
    .map(([id, pixels]) => ({
      id,
      name: classes[id]?.name ?? `class ${id}`,
      color: classes[id]?.color ?? [127, 127, 127],
      pixels,
      share: pixels / ids.length,
    }))
    .sort((a, b) => b.pixels - a.pixels);
}

/** Paints the classes that are shown onto a canvas, in full colour; the others stay transparent. */
export function paint(canvas, labels, classes, hidden) {
  canvas.width = labels.width;
  canvas.height = labels.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(labels.width, labels.height);
  const pixels = new Uint32Array(image.data.buffer);
  const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
  const colors = new Uint32Array(65536);
  for (const { id, color } of classes) {
    const [r, g, b] = color;
    if (!hidden.has(id)) colors[id] = little ? ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0 : ((r << 24) | (g << 16) | (b << 8) | 255) >>> 0;
  }
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[labels.ids[i]];
  context.putImageData(image, 0, 0);
}
