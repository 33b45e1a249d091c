// From the page's data to feature maps: codes as bytes, channel by channel, with what turns them into values.

/** The k×h×w codes of one image: base64, inflated, differences summed up. */
async function unpack(text, width, height) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const codes = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let start = 0; start < codes.length; start += width * height)
    for (let at = start + width; at < start + width * height; at++) codes[at] += codes[at - width];
  for (let row = 0; row < codes.length; row += width)
    for (let at = row + 1; at < row + width; at++) codes[at] += codes[at - 1];
  return codes;
}

/** One image's features: value of channel k at pixel p is low[k] + step[k] · codes[k·n + p]. */
async function readMap(record, book) {
  const { width, height, codes } = record;
  const map = { width, height, n: width * height, k: book.low.length, codes: await unpack(codes, width, height), book };
  map.norms = lengths(map);
  return map;
}

/** A pixel's feature vector. */
function vectorAt(map, pixel) {
  const { low, step } = map.book;
  return Float64Array.from(low, (value, k) => value + step[k] * map.codes[k * map.n + pixel]);
}

/** The length of every pixel's feature vector. */
function lengths(map) {
  const { low, step } = map.book;
  const squares = new Float32Array(map.n);
  for (let k = 0; k < map.k; k++)
    for (let p = 0, at = k * map.n; p < map.n; p++, at++) {
      const value = low[k] + step[k] * map.codes[at];
      squares[p] += value * value;
    }
  return squares.map(Math.sqrt);
}

/** The pixel under a place given as fractions of width and height. */
function pixelAt(map, x, y) {
  const column = Math.min(map.width - 1, Math.max(0, Math.floor(x * map.width)));
  const row = Math.min(map.height - 1, Math.max(0, Math.floor(y * map.height)));
  return row * map.width + column;
}
