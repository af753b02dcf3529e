// Attention and doubt as heat: numbers into colours. The colours are those of the service's own overlays
// (inference/heatmap.py): nothing where there is none, bright yellow for the largest 1% of the positions.
import { packed } from "/page/labels.js";

const SATURATED = 0.01;
const STOPS = [
  [0, 0, 4], [11, 7, 36], [33, 12, 74], [61, 9, 101], [86, 16, 110], [112, 25, 110], [137, 34, 106], [163, 44, 97],
  [187, 54, 84], [209, 69, 69], [227, 89, 50], [241, 114, 30], [249, 140, 10], [252, 170, 15], [249, 201, 50],
  [242, 232, 101], [252, 255, 164],
]; // of "inferno" (CC0), evenly spaced

/** By level 0..255, the packed colour whose opacity grows with the level. */
export const HEAT_COLORS = Uint32Array.from({ length: 256 }, (_, level) => {
  const at = (level / 255) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  const color = STOPS[low].map((from, i) => Math.round(from + (STOPS[low + 1][i] - from) * (at - low)));
  return packed(...color, level);
});

/** What one point attends to: a grid of weights over a part of a picture. */
export class Heat {
  /** heat: size, offset, scale, data; window, cells: left, top, width, height; all as POST /attention gives them. */
  constructor({ size: [rows, columns], offset, scale, data }, window, cells, { width, height }) {
    Object.assign(this, { rows, columns, window, cells, width, height });
    this.values = Float32Array.from(atob(data), (byte) => offset + scale * byte.charCodeAt(0));
    const inside = this.positions().map(({ value }) => value);
    const sorted = Float32Array.from(inside.length ? inside : this.values).sort();
    this.low = Math.min(0, sorted[0]);
    this.high = quantile(sorted, 1 - SATURATED);
    this.top = sorted.at(-1);
  }

  /** The positions whose middle lies in the picture, with that pixel and their weight. */
  positions() {
    const [left, top, width, height] = this.cells;
    const found = [];
    for (let row = 0; row < this.rows; row++) {
      const y = Math.floor(top + ((row + 0.5) * height) / this.rows);
      for (let column = 0; column < this.columns; column++) {
        const x = Math.floor(left + ((column + 0.5) * width) / this.columns);
        const value = this.values[row * this.columns + column];
        if (x >= 0 && y >= 0 && x < this.width && y < this.height) found.push({ x, y, value });
      }
    }
    return found;
  }

  /** The weight at a pixel, between the positions around it; null outside what the network saw. */
  at(x, y) {
    const [left, top, width, height] = this.window;
    const inside = x + 0.5 >= left && y + 0.5 >= top && x + 0.5 <= left + width && y + 0.5 <= top + height;
    return inside ? this.#between(this.#place(x + 0.5, 0), this.#place(y + 0.5, 1)) : null;
  }

  /** Paints it onto a canvas, in as many pixels as it needs to look smooth. */
  paint(canvas, longSide = 640) {
    const shrink = Math.min(1, longSide / Math.max(this.width, this.height));
    canvas.width = Math.max(1, Math.round(this.width * shrink));
    canvas.height = Math.max(1, Math.round(this.height * shrink));
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const [left, top, width, height] = this.window;
    const steps = this.high > this.low ? 255 / (this.high - this.low) : 0;
    const xs = Array.from({ length: canvas.width }, (_, i) => ((i + 0.5) * this.width) / canvas.width);
    const columns = xs.map((x) => (x >= left && x <= left + width ? this.#place(x, 0) : null));
    for (let row = 0; row < canvas.height; row++) {
      const y = ((row + 0.5) * this.height) / canvas.height;
      if (y < top || y > top + height) continue;
      const place = this.#place(y, 1);
      for (let i = 0; i < canvas.width; i++) {
        if (columns[i] === null) continue;
        const level = (this.#between(columns[i], place) - this.low) * steps;
        pixels[row * canvas.width + i] = HEAT_COLORS[Math.min(255, Math.max(0, level | 0))];
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Shares of the attention by class, largest first: [{id, share}]; of what lies in the picture. */
  byClass(labels) {
    const sums = new Map();
    let total = 0;
    for (const { x, y, value } of this.positions()) {
      const id = labels.values[y * labels.width + x];
      sums.set(id, (sums.get(id) ?? 0) + value);
      total += value;
    }
    return [...sums].map(([id, sum]) => ({ id, share: sum / total })).sort((a, b) => b.share - a.share);
  }

  /** Of a distance from an edge: the position before it, the one after, and how far it is between them. */
  #place(distance, axis) {
    const count = axis === 0 ? this.columns : this.rows;
    const at = ((distance - this.cells[axis]) / this.cells[axis + 2]) * count - 0.5;
    const first = Math.min(Math.max(Math.floor(at), 0), count - 1);
    return [first, Math.min(first + 1, count - 1), Math.min(Math.max(at - first, 0), 1)];
  }

  #between([x0, x1, right], [y0, y1, down]) {
    const value = (x, y) => this.values[y * this.columns + x];
    const above = value(x0, y0) + (value(x1, y0) - value(x0, y0)) * right;
    const below = value(x0, y1) + (value(x1, y1) - value(x0, y1)) * right;
    return above + (below - above) * down;
  }
}

/** As NumPy's: between the two nearest of the sorted values. */
function quantile(sorted, share) {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
}
