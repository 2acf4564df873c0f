// Boxes and their labels on a canvas.

const FONT = "system-ui, sans-serif";

function inkOn(color) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 150 ? "#000" : "#fff";
}

// boxes: surest first, so that they are drawn last; colors: of the classes, beginning anew when there are more.
export function drawBoxes(view, boxes, colors, withLabels) {
  const { width, height } = view.canvas;
  const scale = Math.max(1, width / (view.canvas.clientWidth || width)); // a large picture is shown smaller
  const line = Math.max(2, Math.round(1.5 * scale), Math.round((width + height) * 0.0015));
  const size = Math.max(11, Math.round(11 * scale), Math.round((width + height) * 0.009));
  view.lineWidth = line;
  view.font = `${size}px ${FONT}`;
  view.textBaseline = "middle";
  for (const box of [...boxes].reverse()) {
    const color = colors[box.class % colors.length];
    view.strokeStyle = view.fillStyle = color;
    view.strokeRect(box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin);
    if (!withLabels) continue;
    const text = `${box.name} ${box.confidence.toFixed(2)}`;
    const [w, h] = [view.measureText(text).width + size * 0.6, size * 1.35];
    const left = Math.max(0, Math.min(box.xmin - line / 2, width - w));
    const top = box.ymin - h < 0 ? box.ymin : box.ymin - h;
    view.fillRect(left, top, w, h);
    view.fillStyle = inkOn(color);
    view.fillText(text, left + size * 0.3, top + h / 2);
  }
}
