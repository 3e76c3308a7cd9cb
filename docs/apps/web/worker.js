// The model's own thread: WebAssembly computes without a pause, and the page has to stay alive meanwhile.
//
// Takes   { load: folder }, { generate: prompt, maxNewTokens }, { stop: true }
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
    start ??= performance.now(); // the first token took the prompt's time
    postMessage({ text, count, seconds: (performance.now() - start) / 1000 });
    count += 1;
    await nextTask();
    if (stopped) return;
  }
}

/** Lets messages in: a run of the graph, though awaited, gives them no turn. */
function nextTask() {
  return new Promise((resolve) => setTimeout(resolve));
}
