// From numbers to colors on a canvas.

const LABELS = ["#e4572e", "#2e86de", "#2fae7b", "#f2b134", "#9b5de5", "#00b8c4", "#000000"];
const BACKGROUND = LABELS.length - 1; // its key is 0, and its segment is clear
const RAMP = ["#07091f", "#2a1658", "#722a73", "#c0405f", "#f0823f", "#fccb57", "#fffbe0"].map(rgb);

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** A color as the four bytes of a canvas, opaque; read as one number, so that a pixel is one write. */
function word(red, green, blue) {
  return new Uint32Array(Uint8ClampedArray.of(red, green, blue, 255).buffer)[0];
}

/** The color ramp at 0 … 1 in 256 steps. */
const RAMP_WORDS = Uint32Array.from({ length: 256 }, (_, step) => {
  const position = (step / 255) * (RAMP.length - 1);
  const index = Math.min(RAMP.length - 2, Math.floor(position));
  const between = (c) => RAMP[index][c] + (RAMP[index + 1][c] - RAMP[index][c]) * (position - index);
  return word(between(0), between(1), between(2));
});

/** Give the canvas the map's size and let `fill` set its pixels, as words or as bytes. */
function paint(canvas, { width, height }, fill) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  fill(new Uint32Array(picture.data.buffer), picture.data);
  context.putImageData(picture, 0, 0);
}

/** Cosines from `low` (dark) to 1 (light). */
function paintSimilarity(canvas, map, values, low) {
  const scale = 255 / (1 - low);
  paint(canvas, map, (words) => {
    for (let p = 0; p < words.length; p++) {
      const level = (values[p] - low) * scale;
      words[p] = RAMP_WORDS[level < 0 ? 0 : level > 255 ? 255 : Math.round(level)];
    }
  });
}

/** Each pixel in the color of its class; `classes` are indices of LABELS. The background is clear, or black if opaque. */
function paintSegments(canvas, map, segments, classes, opaque = false) {
  const colors = classes.map((label) => (label === BACKGROUND && !opaque ? 0 : word(...rgb(LABELS[label]))));
  paint(canvas, map, (words) => {
    for (let p = 0; p < words.length; p++) words[p] = colors[segments[p]];
  });
}

/** The three principal components as red, green and blue. */
function paintComponents(canvas, map) {
  const { weights, offset } = map.book.colors;
  const parts = weights.map((row, c) => linear(map, row, offset[c]));
  paint(canvas, map, (words, bytes) => {
    words.fill(word(0, 0, 0));
    parts.forEach((part, c) => part.forEach((value, p) => (bytes[4 * p + c] = 255 * value)));
  });
}
