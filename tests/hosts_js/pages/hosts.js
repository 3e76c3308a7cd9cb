// Functions that the tests call in a page: they run an export in onnxruntime-web or transformers.js.

import "./software_gpu.js";
import { greedy, open } from "./ort.js";
import { runModel, runPipeline } from "./transformers.js";

const TRANSFORMERS = "/node_modules/@huggingface/transformers/";
const ORT = { pinned: "/node_modules/onnxruntime-web/dist/", newest: `${TRANSFORMERS}node_modules/onnxruntime-web/dist/` };

/** Run greedy decoding on `batches` in onnxruntime-web. */
window.runOrt = async ({ version, provider, batches, steps, ...model }) => {
  const bundle = provider === "webgpu" ? "ort.webgpu.bundle.min.mjs" : "ort.wasm.bundle.min.mjs";
  const ort = await import(ORT[version] + bundle);
  const session = await open(ort, { provider, ...model });
  const results = [];
  for (const batch of batches) results.push(await greedy(ort, session, batch, steps));
  await session.release();
  return { version: ort.env.versions.web, results };
};

window.runModel = async (job) => runModel(await transformers(), job);
window.runPipeline = async (job) => runPipeline(await transformers(), job);

/** Return the text that the page at `url` has once it has any beside its scripts. */
window.readText = async ({ url }) => {
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.src = url;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    const text = frame.contentDocument?.body?.innerText.trim();
    if (text) return text;
  }
};

/** Import transformers.js, which otherwise would look for models and for onnxruntime-web at other hosts. */
async function transformers() {
  const module = await import(`${TRANSFORMERS}dist/transformers.min.js`);
  Object.assign(module.env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: "/models/" });
  module.env.backends.onnx.wasm.wasmPaths = location.origin + ORT.newest;
  return module;
}

window.ready = true;
