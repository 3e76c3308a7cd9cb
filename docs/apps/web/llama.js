// An export of llama3-onnx in a browser: load its files, and continue a text with the most probable tokens.

import { Template } from "./node_modules/@huggingface/jinja/dist/index.js";
import { Tokenizer } from "./node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs";
import { filesFor, get } from "./export.js";
import { loadWeights } from "./weights.js";

const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };
const BUNDLES = { webgpu: "ort.webgpu.bundle.min.mjs", wasm: "ort.wasm.bundle.min.mjs" };

/**
 * Load the export at the URL `folder` for "webgpu" or "wasm".
 * Call `onProgress(loaded, total)` as the bytes of the weights arrive.
 */
export async function loadModel(folder, device, threads, onProgress) {
  const { graph, weights, maxLength } = await filesFor(folder, device);
  const { externalData, storage } = await loadWeights(folder, weights, onProgress);
  const bytes = new Uint8Array(await (await get(`${folder}/onnx/${graph}`)).arrayBuffer());
  const ort = await import(`./node_modules/onnxruntime-web/dist/${BUNDLES[device]}`);
  ort.env.wasm.numThreads = threads;
  const options = { executionProviders: [device], externalData, enableMemPattern: false };
  if (device === "webgpu") options.preferredOutputLocation = "gpu-buffer"; // the cache stays on the graphics card
  const session = await ort.InferenceSession.create(bytes, options).catch((error) => {
    const why = error?.message || "onnxruntime-web does not say why"; // it may throw a number
    throw new SessionError(`${NAMES[device]} cannot open the model (${why})`);
  });

  const json = async (name) => (await get(`${folder}/${name}`)).json();
  const tokenizerConfig = await json("tokenizer_config.json");
  const tokenizer = new Tokenizer(await json("tokenizer.json"), tokenizerConfig);
  const { eos_token_id: ends = [] } = await json("generation_config.json");
  return { ort, session, tokenizer, tokenizerConfig, maxLength, ends: [ends].flat(), storage };
}

/** The graph cannot be opened on this device, but perhaps on another. */
export class SessionError extends Error {}

/** Return the ids of a text to continue, or of a chat's messages in the form that the model was trained on. */
export function encode({ tokenizer, tokenizerConfig }, prompt) {
  if (typeof prompt === "string") return tokenizer.encode(prompt).ids;
  const { chat_template, bos_token = "", eos_token = "" } = tokenizerConfig;
  const text = new Template(chat_template).render({
    messages: prompt,
    add_generation_prompt: true,
    bos_token: bos_token?.content ?? bos_token,
    eos_token: eos_token?.content ?? eos_token,
  });
  return tokenizer.encode(text, { add_special_tokens: false }).ids;
}

/**
 * Yield the text after the ids of a prompt, one token longer each time, until an end token, `maxNewTokens` or the end
 * of the model's context. However the loop ends, the cache's memory is released.
 */
export async function* generate({ ort, session, tokenizer, maxLength, ends }, promptIds, maxNewTokens) {
  if (promptIds.length >= maxLength) {
    throw new Error(`The text is too long: ${promptIds.length} tokens, and the model reads at most ${maxLength - 1}.`);
  }
  const int64 = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  const decode = (ids) => tokenizer.decode(ids, { skip_special_tokens: true });
  const given = decode(promptIds);
  const newIds = [];
  let chunk = promptIds;
  let past = emptyCache(ort, session);
  try {
    while (newIds.length < maxNewTokens && promptIds.length + newIds.length < maxLength) {
      const mask = Array(promptIds.length + newIds.length).fill(1);
      const { logits, ...present } = await session.run({ input_ids: int64(chunk), attention_mask: int64(mask), ...past });
      dispose(past);
      past = {};
      for (const [name, rows] of Object.entries(present)) past[name.replace("present", "past_key_values")] = rows;
      const vocabSize = logits.dims.at(-1);
      const values = (await logits.getData(true)).subarray(-vocabSize); // of the last position; releases their memory
      const next = values.reduce((best, value, id) => (value > values[best] ? id : best), 0);
      if (ends.includes(next)) return;
      newIds.push(next);
      chunk = [next];
      // A character may need several tokens; until it is complete, it decodes to replacement characters.
      yield decode([...promptIds, ...newIds]).slice(given.length).replace(/\uFFFD+$/, "");
    }
  } finally {
    dispose(past);
  }
}

/** Return an empty past for each layer. */
function emptyCache(ort, session) {
  const inputs = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values."));
  const empty = (shape) => new ort.Tensor("float32", new Float32Array(0), [1, shape[1], 0, shape[3]]);
  return Object.fromEntries(inputs.map(({ name, shape }) => [name, empty(shape)]));
}

function dispose(tensors) {
  for (const tensor of Object.values(tensors)) tensor.dispose();
}
