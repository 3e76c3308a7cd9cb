// The page itself: it sends the prompt to the worker and shows the worker's answers.

const MODEL = "model"; // the folder of the export, beside this page

const element = (id) => document.getElementById(id);
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

const worker = new Worker("worker.js", { type: "module" });
worker.onmessage = ({ data: message }) => {
  if ("loaded" in message) showProgress(message);
  else if ("name" in message) showReady(message);
  else if ("text" in message) showText(message);
  else if ("done" in message) setRunning(false);
  else showError(message.error);
};
worker.onerror = ({ message }) => showError(message ?? "the worker cannot be loaded");
worker.postMessage({ load: new URL(MODEL, location.href).href });

element("form").onsubmit = (event) => {
  event.preventDefault();
  element("given").textContent = element("prompt").value;
  element("text").textContent = element("speed").textContent = element("error").textContent = "";
  setRunning(true);
  worker.postMessage({ generate: element("prompt").value, maxNewTokens: Number(element("count").value) });
};
element("stop").onclick = () => worker.postMessage({ stop: true });

function showProgress({ loaded, total }) {
  element("progress").max = total;
  element("progress").value = loaded;
  element("loaded").textContent =
    loaded < total ? `${megabytes(loaded)} of ${megabytes(total)} MB` : "Opening the model";
}

function showReady({ name }) {
  element("model").textContent = name;
  element("loading").hidden = true;
  setRunning(false);
}

function showText({ text, count, seconds }) {
  element("text").textContent = text;
  element("speed").textContent = count ? `${(count / seconds).toFixed(1)} tokens/s` : "";
}

function showError(text) {
  element("error").textContent = text;
  if (element("loading").hidden) setRunning(false);
}

function setRunning(running) {
  element("generate").disabled = running;
  element("stop").disabled = !running;
}
