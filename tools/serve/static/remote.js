// The server as a detector.

const QUALITY = 0.95; // of the JPEGs that are sent
const BUSY = 503;

export class RemoteDetector {
  // The objects in a canvas, surest first: xmin, ymin, xmax, ymax in its pixels, confidence, class, name.
  async detect(canvas, { conf, iou }) {
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
    const form = new FormData();
    form.append("image", blob, "picture.jpg");
    let answer;
    try {
      answer = await fetch(`detect?${new URLSearchParams({ conf, iou })}`, { method: "POST", body: form });
    } catch {
      throw new Error("the server does not answer");
    }
    if (answer.ok) return (await answer.json()).images[0].detections;
    const { detail } = await answer.json().catch(() => ({ detail: answer.statusText }));
    const text = typeof detail === "string" ? detail : JSON.stringify(detail);
    throw new Error(answer.status === BUSY ? `the server is busy: ${text}` : text);
  }
}
