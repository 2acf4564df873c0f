// Loads the network and looks at pictures; one message after the other.

import * as ort from "./vendor/ort.wasm.min.mjs";
import { decode, letterbox, placement, toTensor } from "./boxes.js";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that plain web hosts do not send
let session = null;
let card = null;

async function load(message) {
  card = message.card;
  session = await ort.InferenceSession.create(new URL(card.model, import.meta.url).href, { executionProviders: ["wasm"] });
}

async function detect({ data, width, height, conf, iou }) {
  const place = placement(width, height, card);
  const images = toTensor(letterbox({ data, width, height }, place), place);
  const output = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", images, [1, 3, place.netH, place.netW]) });
  return decode(output, session.outputNames, place, { width, height }, { conf, iou }, card.names.length);
}

let turn = Promise.resolve();
self.onmessage = ({ data }) => {
  turn = turn
    .then(() => (data.kind === "load" ? load(data) : detect(data)))
    .then((result) => self.postMessage({ id: data.id, result }))
    .catch((error) => self.postMessage({ id: data.id, error: error.message ?? String(error) }));
};
