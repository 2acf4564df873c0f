// The page: what is dropped, pasted, chosen or filmed goes to a detector, and its boxes are drawn on a canvas.
// Where the card says so the detector is the server that the page came from, else this browser.

import { drawBoxes } from "./draw.js";
import { LocalDetector } from "./local.js";
import { RemoteDetector } from "./remote.js";
import { showCard, showClasses } from "./card.js";

const WAIT_MS = 120; // after the last move of a slider
const MOST_PIXELS = 4096; // of a side of a picture that is shown
const $ = (id) => document.getElementById(id);
const view = $("canvas").getContext("2d");
const still = document.createElement("canvas"); // the picture or frame that was looked at, without boxes

const state = { card: null, detector: null, found: [], hidden: new Set(), isVideo: false, turn: 0, timer: 0 };

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

function thresholds() {
  return { conf: Number($("conf").value), iou: Number($("iou").value) };
}

// Draws the last picture and those of its boxes whose classes are shown.
function draw() {
  if (!still.width) return;
  const shown = state.found.filter((box) => !state.hidden.has(box.class));
  Object.assign($("canvas"), { width: still.width, height: still.height });
  view.drawImage(still, 0, 0);
  drawBoxes(view, shown, state.card.colors, $("labels").checked);
  const counts = new Map();
  for (const box of state.found) counts.set(box.class, (counts.get(box.class) ?? 0) + 1);
  for (const item of document.querySelectorAll("#classes .count")) item.textContent = counts.get(Number(item.dataset.index)) ?? "";
  $("canvas").dataset.boxes = shown.length;
}

function showView() {
  $("drop").hidden = true;
  $("view").hidden = $("after").hidden = false;
  $("pause").hidden = !state.isVideo;
}

// Looks at what `still` holds; whether it was still wanted when the answer came.
async function look(turn) {
  const start = performance.now();
  const found = await state.detector.detect(still, thresholds());
  if (turn !== state.turn) return false;
  state.found = found;
  draw();
  const ms = performance.now() - start;
  const rate = state.isVideo ? `, ${(1000 / ms).toFixed(1)} frames a second` : "";
  say(`${found.length} ${found.length === 1 ? "object" : "objects"} in ${ms.toFixed(0)} ms${rate}`);
  return true;
}

async function lookAgain() {
  if (state.isVideo || !still.width) return;
  const turn = ++state.turn;
  try {
    if (await look(turn)) refreshCard();
  } catch (error) {
    if (turn === state.turn) say(error.message, true);
  }
}

function take(source, width, height) {
  const scale = Math.min(1, MOST_PIXELS / Math.max(width, height));
  still.width = Math.max(Math.round(width * scale), 1);
  still.height = Math.max(Math.round(height * scale), 1);
  still.getContext("2d", { willReadFrequently: true }).drawImage(source, 0, 0, still.width, still.height);
}

function stopVideo() {
  const video = $("video");
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
  state.isVideo = false;
  $("pause").textContent = "pause";
}

async function openFile(file) {
  const turn = ++state.turn;
  stopVideo();
  if (file.type.startsWith("video/")) {
    $("video").src = URL.createObjectURL(file);
    await play(turn, file.name);
    return;
  }
  try {
    say("...");
    const picture = await createImageBitmap(file).catch(() => {
      throw new Error(`${file.name || "this"} is no picture or video that this browser can show`);
    });
    if (turn !== state.turn) return;
    take(picture, picture.width, picture.height);
    picture.close();
    state.found = [];
    showView();
    draw();
    await lookAgain();
  } catch (error) {
    say(error.message, true);
  }
}

async function openCamera() {
  const turn = ++state.turn;
  stopVideo();
  try {
    if (!navigator.mediaDevices) throw new Error("browsers give the camera to pages of this machine or with https only");
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    if (turn !== state.turn) return stream.getTracks().forEach((track) => track.stop());
    $("video").srcObject = stream;
    await play(turn, "the camera");
  } catch (error) {
    say(`no camera: ${error.message}`, true);
  }
}

// Looks at one frame after the other for as long as no other file is opened.
async function play(turn, name) {
  const video = $("video");
  state.isVideo = true;
  try {
    say("...");
    await video.play();
  } catch (error) {
    if (turn !== state.turn) return;
    state.isVideo = false;
    return say(`${name}: this browser cannot play it`, true);
  }
  while (turn === state.turn) {
    if (!video.paused && video.videoWidth) {
      take(video, video.videoWidth, video.videoHeight);
      showView();
      try {
        if (!(await look(turn))) return;
      } catch (error) {
        if (turn !== state.turn) return;
        say(error.message, true);
        await new Promise((done) => setTimeout(done, 1000));
      }
    }
    await new Promise(requestAnimationFrame);
  }
}

async function refreshCard() {
  if (state.card.runs !== "server") return;
  const answer = await fetch("model.json");
  if (answer.ok) showCard($("card"), await answer.json());
}

function savePicture() {
  $("canvas").toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "detections.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

function connect() {
  const first = (list) => [...list].find((file) => /^(image|video)\//.test(file.type)) ?? list[0];
  for (const id of ["choose", "other"]) $(id).addEventListener("click", () => $("file").click());
  for (const id of ["camera", "camera2"]) $(id).addEventListener("click", openCamera);
  $("file").addEventListener("change", () => {
    if ($("file").files.length) openFile($("file").files[0]);
    $("file").value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("stage").classList.add("over");
  });
  document.addEventListener("dragleave", () => $("stage").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("stage").classList.remove("over");
    if (event.dataTransfer.files.length) openFile(first(event.dataTransfer.files));
    else say("drop a file: links and text hold no picture", true);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) openFile(first(event.clipboardData.files));
  });
  for (const key of ["conf", "iou"]) {
    const show = () => ($(`${key}-value`).textContent = Number($(key).value).toFixed(2));
    show();
    $(key).addEventListener("input", () => {
      show();
      clearTimeout(state.timer);
      state.timer = setTimeout(lookAgain, WAIT_MS);
    });
  }
  $("labels").addEventListener("change", draw);
  $("pause").addEventListener("click", () => {
    const video = $("video");
    if (video.paused) video.play();
    else video.pause();
    $("pause").textContent = video.paused ? "go on" : "pause";
  });
  $("save").addEventListener("click", savePicture);
}

async function start() {
  try {
    const answer = await fetch("model.json");
    if (!answer.ok) throw new Error(`model.json: ${answer.status} ${answer.statusText}`);
    state.card = await answer.json();
    document.title = `Try ${state.card.files[0].name}`;
    const isServer = state.card.runs === "server";
    $("where").textContent = isServer
      ? "Pictures go to the server that this page came from, which does not keep them."
      : "All is computed in this browser; no picture leaves this machine.";
    showCard($("card"), state.card);
    showClasses($("classes"), [$("all"), $("none")], state.card, state.hidden, draw);
    if (!isServer) say("loading the model ...");
    state.detector = isServer ? new RemoteDetector() : await LocalDetector.load(state.card);
    say("");
    connect();
    document.body.dataset.ready = "yes";
  } catch (error) {
    say(`the page cannot start: ${error.message}`, true);
  }
}

start();
