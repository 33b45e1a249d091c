// What is computed from features: linear maps of all pixels, cosines, the ridge fit.

/** weights · feature + offset for every pixel; the scale of the codes goes into the weights, so this is fast. */
function linear(map, weights, offset = 0) {
  const { low, step } = map.book;
  let constant = offset;
  for (let k = 0; k < map.k; k++) constant += weights[k] * low[k];
  const out = new Float32Array(map.n).fill(constant);
  for (let k = 0; k < map.k; k++) {
    const weight = weights[k] * step[k];
    const codes = map.codes.subarray(k * map.n, (k + 1) * map.n);
    for (let p = 0; p < out.length; p++) out[p] += weight * codes[p];
  }
  return out;
}

/** The cosine between a vector and every pixel's feature. */
function cosines(map, vector) {
  const length = Math.hypot(...vector);
  const out = linear(map, vector);
  for (let p = 0; p < out.length; p++) out[p] /= length * map.norms[p] + 1e-12;
  return out;
}

/**
 * One linear map per class by ridge regression on one-hot labels: (XᵀX/N + λI)⁻¹ XᵀY/N, X with a column of ones.
 * The bias is regularized as well, as in the paper. Gives [{weights, offset}] by class.
 */
function ridge(rows, labels, classes, lambda) {
  const size = rows[0].length + 1;
  const gram = Array.from({ length: size }, () => new Float64Array(size));
  const sums = classes.map(() => new Float64Array(size));
  rows.forEach((row, n) => {
    const x = [...row, 1];
    const target = sums[classes.indexOf(labels[n])];
    for (let i = 0; i < size; i++) {
      target[i] += x[i] / rows.length;
      for (let j = 0; j <= i; j++) gram[i][j] += (x[i] * x[j]) / rows.length;
    }
  });
  for (let i = 0; i < size; i++) gram[i][i] += lambda;
  const lower = cholesky(gram);
  return sums.map((right) => {
    const solution = substitute(lower, right);
    return { weights: solution.subarray(0, size - 1), offset: solution[size - 1] };
  });
}

/** The lower triangular L with L Lᵀ = A, for A symmetric and positive definite; only its lower half is read. */
function cholesky(matrix) {
  const lower = matrix.map((row) => Float64Array.from(row));
  for (let i = 0; i < lower.length; i++)
    for (let j = 0; j <= i; j++) {
      let sum = lower[i][j];
      for (let k = 0; k < j; k++) sum -= lower[i][k] * lower[j][k];
      lower[i][j] = i === j ? Math.sqrt(sum) : sum / lower[j][j];
    }
  return lower;
}

/** The solution of L Lᵀ x = right. */
function substitute(lower, right) {
  const x = Float64Array.from(right);
  const size = x.length;
  for (let i = 0; i < size; i++) {
    for (let k = 0; k < i; k++) x[i] -= lower[i][k] * x[k];
    x[i] /= lower[i][i];
  }
  for (let i = size - 1; i >= 0; i--) {
    for (let k = i + 1; k < size; k++) x[i] -= lower[k][i] * x[k];
    x[i] /= lower[i][i];
  }
  return x;
}

/** For every pixel the number of the class whose map is largest. */
function segment(map, fit) {
  const best = new Uint8Array(map.n);
  let top = null;
  fit.forEach(({ weights, offset }, index) => {
    const score = linear(map, weights, offset);
    if (!top) top = score;
    else for (let p = 0; p < map.n; p++) if (score[p] > top[p]) [top[p], best[p]] = [score[p], index];
  });
  return best;
}

/** The features in a disc of `radius` pixels of the finest map around a place; at least the one under it. */
function around(map, x, y, radius) {
  const rows = [vectorAt(map, pixelAt(map, x, y))];
  const [column, row] = [Math.floor(x * map.width), Math.floor(y * map.height)];
  for (let dy = -radius; dy <= radius; dy++)
    for (let dx = -radius; dx <= radius; dx++) {
      const [u, v] = [column + dx, row + dy];
      const inside = u >= 0 && v >= 0 && u < map.width && v < map.height;
      if ((dx || dy) && dx * dx + dy * dy <= radius * radius && inside) rows.push(vectorAt(map, v * map.width + u));
    }
  return rows;
}
