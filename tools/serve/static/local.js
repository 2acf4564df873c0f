// This browser as a detector: ONNX Runtime in a worker, so that the page stays quick.

export class LocalDetector {
  static async load(card) {
    const detector = new LocalDetector(card);
    await detector.ask({ kind: "load", card });
    return detector;
  }

  constructor(card) {
    this.card = card;
    this.waiting = new Map();
    this.count = 0;
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => {
      const { done, failed } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error === undefined) done(data.result);
      else failed(new Error(data.error));
    };
    this.worker.onerror = (event) => {
      for (const { failed } of this.waiting.values()) failed(new Error(event.message || "the worker cannot be started"));
      this.waiting.clear();
    };
  }

  ask(message, transfer = []) {
    return new Promise((done, failed) => {
      const id = this.count++;
      this.waiting.set(id, { done, failed });
      this.worker.postMessage({ ...message, id }, transfer);
    });
  }

  // The objects in a canvas, surest first: xmin, ymin, xmax, ymax in its pixels, confidence, class, name.
  async detect(canvas, { conf, iou }) {
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const rows = await this.ask({ kind: "detect", data, width, height, conf, iou }, [data.buffer]);
    return rows.map((row) => ({ ...row, name: this.card.names[row.class] }));
  }
}
