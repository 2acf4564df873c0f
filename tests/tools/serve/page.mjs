// Opens the page in Chromium, gives it pictures as a user would, and prints what it shows as JSON. For test_serve_page.py.
// node page.mjs browser url picture screenshot

import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../../../tools/serve/static/package.json", import.meta.url))("playwright-core");
const [executablePath, url, picture, screenshot] = process.argv.slice(2);
const args = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const browser = await chromium.launch({ executablePath, args: [...args, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"] });
const seen = { problems: [], requests: [] };
const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
page.setDefaultTimeout(60000);
page.on("console", (message) => seen.problems.push(message.text()));
page.on("pageerror", (error) => seen.problems.push(error.message));
page.on("request", (request) => seen.requests.push(request.url()));

const boxes = () => page.getAttribute("#canvas", "data-boxes").then(Number);
const status = () => page.textContent("#status");
const settled = (change) => page.waitForFunction(change, null, { polling: 50 });
const shown = () => settled(() => /^\d+ objects? in/.test(document.querySelector("#status").textContent));

// Drops a file of this content on the page.
async function drop(name, type, base64) {
  await page.evaluate(([name, type, base64]) => {
    document.querySelector("#status").textContent = "";
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    document.querySelector("#stage").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
  }, [name, type, base64]);
}

await page.goto(url);
await page.waitForSelector("body[data-ready=yes]");
const { readFileSync } = await import("node:fs");
await drop("picture.png", "image/png", readFileSync(picture).toString("base64"));
await shown();
seen.boxes = await boxes();
seen.status = await status();
seen.size = await page.evaluate(() => [document.querySelector("#canvas").width, document.querySelector("#canvas").height]);
await page.screenshot({ path: screenshot });
const uncheck = page.locator("#classes input").first();
await uncheck.uncheck();
seen.withoutFirst = await boxes();
await page.click("#none");
seen.withoutAll = await boxes();
await page.click("#all");
await page.evaluate(() => (document.querySelector("#status").textContent = ""));
await page.fill("#conf", "0.7");
await shown();
seen.sure = await boxes();
seen.card = await page.textContent("#card");
await drop("evil.png", "image/png", "AAAA");
await settled(() => /no picture/.test(document.querySelector("#status").textContent));
seen.refused = await status();
await page.click("#camera2");
await settled(() => /frames a second/.test(document.querySelector("#status").textContent));
seen.camera = await status();
await browser.close();
console.log(JSON.stringify(seen));
