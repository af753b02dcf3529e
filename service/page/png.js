// Values of a single-channel PNG, exactly: a canvas would give colours, which two classes may share and a browser may
// shift. Class ids of labels, bytes of confidence.

const GREY = 0;
const PALETTE = 3;
const DATA = 0x49444154; // the chunks called IDAT

/** Reads a PNG (grey or palette, 1 to 16 bits, not interlaced): {width, height, values}. */
export async function readPng(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 33 || view.getUint32(0) !== 0x89504e47) throw new Error("The answer is no PNG.");
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  const bits = view.getUint8(24);
  const single = [GREY, PALETTE].includes(view.getUint8(25));
  if (!single || view.getUint8(28) !== 0) throw new Error("The answer is no PNG of a single channel.");
  const parts = [];
  for (let at = 8; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at);
    if (view.getUint32(at + 4) === DATA) parts.push(new Uint8Array(buffer, at + 8, size));
    at += size + 12;
  }
  const inflated = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(inflated).arrayBuffer());
  const rows = unfilter(raw, Math.ceil((width * bits) / 8), height, bits);
  return { width, height, values: unpack(rows, width, height, bits) };
}

/** Undoes the five PNG filters in place and returns the rows without their filter bytes. */
function unfilter(raw, stride, height, bits) {
  const step = Math.max(1, bits >> 3);
  const out = new Uint8Array(stride * height);
  for (let row = 0; row < height; row++) {
    const filter = raw[row * (stride + 1)];
    const from = row * (stride + 1) + 1;
    const to = row * stride;
    if (filter === 0) {
      out.set(raw.subarray(from, from + stride), to);
      continue;
    }
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
  const values = new Uint16Array(width * height);
  const stride = Math.ceil((width * bits) / 8);
  for (let i = 0; i < values.length; i++) {
    const x = i % width;
    const row = ((i / width) | 0) * stride;
    if (bits === 16) values[i] = (rows[row + 2 * x] << 8) | rows[row + 2 * x + 1];
    else values[i] = (rows[row + ((x * bits) >> 3)] >> (8 - bits - ((x * bits) & 7))) & ((1 << bits) - 1);
  }
  return values;
}
