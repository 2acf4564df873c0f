// The way of a picture into the network and of its boxes back: as Python's letterbox, NMS and scale_coords have it.

const GRAY = 114;
const [MIN_SIDE, MAX_SIDE] = [2, 7680]; // pixels; other boxes are dropped
const MOST = 1000; // boxes of a picture
const MOST_CANDIDATES = 30000;

// Python's round: halves go to the even number.
export function round(x) {
  const low = Math.floor(x);
  if (x - low === 0.5) return low % 2 ? low + 1 : low;
  return Math.round(x);
}

// Where a picture lies in the network's image: its size there, its place, and the network's own size.
export function placement(width, height, { imgsz: [netH, netW], stride, is_fixed: isFixed }) {
  const ratio = Math.min(netH / height, netW / width);
  const w = Math.max(round(width * ratio), 1);
  const h = Math.max(round(height * ratio), 1);
  let [padW, padH] = [netW - w, netH - h];
  if (!isFixed) [padW, padH] = [padW % stride, padH % stride];
  const [left, top] = [round(padW / 2 - 0.1), round(padH / 2 - 0.1)];
  return { w, h, left, top, netW: w + padW, netH: h + padH };
}

// The weights of linear interpolation along an axis: two neighbours and the share of the second, centres aligned.
function axis(from, to) {
  return Array.from({ length: to }, (_, i) => {
    const x = Math.min(Math.max(((i + 0.5) * from) / to - 0.5, 0), from - 1);
    const low = Math.floor(x);
    return [low, Math.min(low + 1, from - 1), x - low];
  });
}

// RGB bytes of the network's image, from RGBA ones of the picture.
export function letterbox({ data, width, height }, { w, h, left, top, netW, netH }) {
  const out = new Uint8Array(netW * netH * 3).fill(GRAY);
  const columns = axis(width, w);
  axis(height, h).forEach(([y0, y1, fy], y) => {
    let to = ((y + top) * netW + left) * 3;
    for (const [x0, x1, fx] of columns) {
      const [a, b, c, d] = [(y0 * width + x0) * 4, (y0 * width + x1) * 4, (y1 * width + x0) * 4, (y1 * width + x1) * 4];
      for (let i = 0; i < 3; i++) {
        const upper = data[a + i] + (data[b + i] - data[a + i]) * fx;
        const lower = data[c + i] + (data[d + i] - data[c + i]) * fx;
        out[to++] = Math.round(upper + (lower - upper) * fy);
      }
    }
  });
  return out;
}

// (3, H, W) in 0..1, of bytes (H, W, 3).
export function toTensor(bytes, { netW, netH }) {
  const plane = netW * netH;
  const out = new Float32Array(plane * 3);
  for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) out[c * plane + i] = bytes[i * 3 + c] / 255;
  return out;
}

// Candidates of (1, N, 5 + nc): centre, size, objectness, class scores; the best class of each, if it is sure enough.
function candidates(rows, count, nc, conf) {
  const found = [];
  for (let i = 0; i < count; i++) {
    const at = i * (5 + nc);
    if (!(rows[at + 4] > conf)) continue;
    let best = 0;
    for (let c = 1; c < nc; c++) if (rows[at + 5 + c] > rows[at + 5 + best]) best = c;
    const confidence = Math.fround(rows[at + 4] * rows[at + 5 + best]);
    const [x, y, w, h] = rows.subarray(at, at + 4);
    const isSized = Math.min(w, h) >= MIN_SIDE && Math.max(w, h) <= MAX_SIDE;
    if (confidence > conf && isSized) found.push({ box: [x - w / 2, y - h / 2, x + w / 2, y + h / 2], confidence, class: best });
  }
  return found;
}

// The same of the four outputs of a file with its NMS inside.
function fromNms(output, names, conf) {
  const [num, boxes, scores, classes] = names.map((name) => output[name].data);
  return Array.from({ length: Number(num[0]) }, (_, i) => ({
    ...{ box: [...boxes.subarray(i * 4, i * 4 + 4)], confidence: scores[i], class: Number(classes[i]) },
  })).filter((row) => row.confidence > conf);
}

function overlap(a, b) {
  const w = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const h = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (w <= 0 || h <= 0) return 0;
  const areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]);
  return (w * h) / (areas - w * h);
}

// Of boxes of a class that overlap more than iou, the surest stays.
export function suppress(rows, iou) {
  const kept = [];
  for (const row of [...rows].sort((a, b) => b.confidence - a.confidence).slice(0, MOST_CANDIDATES)) {
    if (kept.length === MOST) break;
    if (kept.every((other) => other.class !== row.class || overlap(other.box, row.box) <= iou)) kept.push(row);
  }
  return kept;
}

// The objects of an output, surest first, in the picture's pixels.
export function decode(output, names, { netW, netH }, { width, height }, { conf, iou }, nc) {
  const first = output[names[0]];
  const rows = names.length === 4 ? fromNms(output, names, conf) : candidates(first.data, first.dims[1], nc, conf);
  const ratio = Math.min(netH / height, netW / width);
  const [padW, padH] = [(netW - width * ratio) / 2, (netH - height * ratio) / 2];
  const x = (value) => round(Math.min(Math.max((value - padW) / ratio, 0), width));
  const y = (value) => round(Math.min(Math.max((value - padH) / ratio, 0), height));
  return suppress(rows, iou).map(({ box: [x1, y1, x2, y2], confidence, class: index }) => ({
    ...{ xmin: x(x1), ymin: y(y1), xmax: x(x2), ymax: y(y2), confidence, class: index },
  }));
}
