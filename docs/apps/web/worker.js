// The model's own thread: it computes without a pause, and the page must still respond.
//
// Accepts { load: folder, device, threads, fallbackThreads }, { generate: text or messages, maxNewTokens }, { stop: true }
// Answers { loaded, total }, { fallback }, { ready: true, chats, storage }, { text, count, seconds }, { done: true },
// { error }

import { SessionError, encode, generate, loadModel } from "./llama.js";

let model;
let stopped = false;

self.onmessage = async ({ data: message }) => {
  try {
    if (message.load) {
      model = await load(message);
      postMessage({ ready: true, chats: Boolean(model.tokenizerConfig.chat_template), storage: model.storage });
    } else if (message.stop) {
      stopped = true;
    } else {
      await stream(message.generate, message.maxNewTokens);
      postMessage({ done: true });
    }
  } catch (error) {
    postMessage({ error: error?.message || `the model stopped (${error})` }); // onnxruntime-web may throw a number
  }
};

/** Load the model on a device; if WebGPU cannot open it, in WebAssembly. */
async function load({ load: folder, device, threads, fallbackThreads }) {
  const onProgress = (loaded, total) => postMessage({ loaded, total });
  try {
    return await loadModel(folder, device, threads, onProgress);
  } catch (error) {
    if (!(error instanceof SessionError) || device === "wasm") throw error;
    postMessage({ fallback: error.message });
    return loadModel(folder, "wasm", fallbackThreads, onProgress);
  }
}

async function stream(prompt, maxNewTokens) {
  stopped = false;
  let count = 0;
  let start;
  for await (const text of generate(model, encode(model, prompt), maxNewTokens)) {
    start ??= performance.now(); // the time before the first token is the prompt's
    postMessage({ text, count, seconds: (performance.now() - start) / 1000 });
    count += 1;
    await nextTask();
    if (stopped) return;
  }
}

/** Let messages in: awaiting a run of the graph does not. */
function nextTask() {
  return new Promise((resolve) => setTimeout(resolve));
}
