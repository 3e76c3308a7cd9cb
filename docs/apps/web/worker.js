// The model's own thread: WebAssembly computes without a pause, and the page must still respond.
//
// Accepts { load: folder }, { generate: prompt, maxNewTokens }, { stop: true }
// Answers { loaded, total }, { name }, { text, count, seconds }, { done: true }, { error }

import { generate, loadModel } from "./llama.js";

let model;
let stopped = false;

self.onmessage = async ({ data: message }) => {
  try {
    if (message.load) {
      model = await loadModel(message.load, (loaded, total) => postMessage({ loaded, total }));
      postMessage({ name: model.name });
    } else if (message.stop) {
      stopped = true;
    } else {
      await stream(message.generate, message.maxNewTokens);
      postMessage({ done: true });
    }
  } catch (error) {
    postMessage({ error: error.message });
  }
};

async function stream(prompt, maxNewTokens) {
  stopped = false;
  let count = 0;
  let start;
  for await (const text of generate(model, prompt, maxNewTokens)) {
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
