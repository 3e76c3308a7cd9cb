// The page itself: it chooses the device, sends prompts to the worker, and shows the worker's answers.

import { checkBrowser, chooseDevice, chooseThreads } from "./device.js";
import { readExport } from "./export.js";

const MODEL = "model"; // the folder of the export, beside this page
const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };

const element = (id) => document.getElementById(id);
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

let messages = []; // of the chat so far
let answer; // the element that shows the text as it comes
let worker;

start().catch(({ message }) => showError(message));

async function start() {
  checkBrowser();
  await keepPage().catch(() => {}); // without it, the page needs a network
  const folder = new URL(MODEL, location.href).href;
  const facts = await readExport(folder);
  element("model").textContent = facts.name;
  const { device, why, threads, whyThreads } = await chooseDevice(facts);
  showDevice(device, why, threads, whyThreads);
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data: message }) => {
    if ("loaded" in message) showProgress(message);
    else if ("fallback" in message) showDevice("wasm", message.fallback, ...Object.values(chooseThreads()));
    else if ("ready" in message) showReady(message);
    else if ("text" in message) showText(message);
    else if ("done" in message) finish();
    else showError(message.error);
  };
  worker.onerror = ({ message }) => showError(message ?? "the worker cannot be loaded");
  worker.postMessage({ load: folder, device, threads, fallbackThreads: chooseThreads().threads });
}

/** Start the service worker, and wait until it sees this page's requests. */
async function keepPage() {
  const container = navigator.serviceWorker;
  await container.register("service-worker.js");
  if (container.controller) return;
  await Promise.race([
    new Promise((resolve) => container.addEventListener("controllerchange", resolve, { once: true })),
    new Promise((resolve) => setTimeout(resolve, 5000)),
  ]);
}

element("form").onsubmit = (event) => {
  event.preventDefault();
  const text = element("prompt").value;
  const chats = element("mode").value === "chat";
  if (chats) {
    messages.push({ role: "user", content: text });
    element("prompt").value = "";
    addTurn("user").textContent = text;
    answer = addTurn("assistant");
  } else {
    clear();
    const turn = addTurn("continued");
    const given = turn.appendChild(document.createElement("span"));
    given.textContent = text;
    answer = turn.appendChild(document.createElement("span"));
  }
  element("speed").textContent = element("error").textContent = "";
  setRunning(true);
  worker.postMessage({ generate: chats ? messages : text, maxNewTokens: Number(element("count").value) });
};
element("stop").onclick = () => worker.postMessage({ stop: true });
element("clear").onclick = clear;
element("mode").onchange = clear;

function clear() {
  messages = [];
  element("turns").replaceChildren();
}

function addTurn(kind) {
  const turn = element("turns").appendChild(document.createElement("li"));
  turn.className = kind;
  return turn;
}

function showDevice(device, why, threads, whyThreads) {
  const wasm = device === "wasm" ? `, ${threads} ${threads === 1 ? "thread" : "threads"}: ${whyThreads}` : "";
  element("device").textContent = `Runs on ${NAMES[device]} (${why}${wasm}).`;
}

function showProgress({ loaded, total }) {
  element("progress").max = total;
  element("progress").value = loaded;
  element("loaded").textContent =
    loaded < total ? `${megabytes(loaded)} of ${megabytes(total)} MB` : "Opening the model";
}

function showReady({ chats, storage }) {
  element("storage").textContent = storage;
  element("loading").hidden = true;
  element("chat").disabled = !chats; // the file has no template
  element("mode").value = chats ? "chat" : "continue";
  setRunning(false);
}

function showText({ text, count, seconds }) {
  answer.textContent = text;
  element("speed").textContent = count ? `${(count / seconds).toFixed(1)} tokens/s` : "";
}

/** Keep the answer in the chat, even if it was stopped. */
function finish() {
  if (element("mode").value === "chat") messages.push({ role: "assistant", content: answer.textContent });
  setRunning(false);
}

function showError(text) {
  element("error").textContent = text;
  if (!element("loading").hidden) return; // there is no model
  if (messages.at(-1)?.role === "user") messages.pop(); // it has no answer
  setRunning(false);
}

function setRunning(running) {
  for (const id of ["generate", "clear", "mode"]) element(id).disabled = running;
  element("stop").disabled = !running;
}
