// Copies what the page needs of ONNX Runtime (MIT licence) into vendor/, which git ignores: npm ci && npm run vendor

import { copyFileSync, mkdirSync } from "node:fs";

const from = new URL("./node_modules/onnxruntime-web/", import.meta.url);
const to = new URL("./vendor/", import.meta.url);
mkdirSync(to, { recursive: true });
for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
  copyFileSync(new URL(`dist/${name}`, from), new URL(name, to));
  console.log(`vendor/${name}`);
}
