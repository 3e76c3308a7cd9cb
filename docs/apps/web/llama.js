// An export of llama3-onnx in a browser: load its files, and continue a text with the most probable tokens.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { Tokenizer } from "./node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs";

/**
 * Load the export at the URL `folder`, which must be made with --shard-size.
 * Call `onProgress(loaded, total)` as the bytes of the weights arrive.
 */
export async function loadModel(folder, onProgress) {
  const json = async (name) => (await get(`${folder}/${name}`)).json();
  const { source, weights } = await json("llama3.json");
  if (!weights) throw new Error(`${folder}: its weights are in one file; export it with --shard-size`);

  const total = weights.reduce((sum, { size }) => sum + size, 0);
  let loaded = 0;
  const count = (bytes) => onProgress((loaded += bytes), total);
  const externalData = weights.map(async ({ name, size }) => ({
    path: name,
    data: await getBytes(`${folder}/${name}`, size, count),
  }));

  const session = await ort.InferenceSession.create(await (await get(`${folder}/model.onnx`)).arrayBuffer(), {
    executionProviders: ["wasm"],
    externalData: await Promise.all(externalData),
  });
  const tokenizer = new Tokenizer(await json("tokenizer.json"), await json("tokenizer_config.json"));
  const { eos_token_id: ends = [] } = await json("generation_config.json");
  return { name: source.name, session, tokenizer, ends };
}

/** Yield the text after `prompt`, one token longer each time, until an end token or `maxNewTokens`. */
export async function* generate({ session, tokenizer, ends }, prompt, maxNewTokens) {
  const promptIds = tokenizer.encode(prompt).ids;
  const given = tokenizer.decode(promptIds);
  const newIds = [];
  let chunk = promptIds;
  let past = emptyCache(session);
  while (newIds.length < maxNewTokens) {
    const mask = Array(promptIds.length + newIds.length).fill(1);
    const { logits, ...present } = await session.run({ input_ids: int64(chunk), attention_mask: int64(mask), ...past });
    const next = logits.data.reduce((best, value, id, all) => (value > all[best] ? id : best), 0);
    if (ends.includes(next)) return;
    newIds.push(next);
    chunk = [next];
    past = {};
    for (const [name, rows] of Object.entries(present)) past[name.replace("present", "past_key_values")] = rows;
    // A character may need several tokens; until it is complete, it decodes to replacement characters.
    yield tokenizer.decode([...promptIds, ...newIds]).slice(given.length).replace(/\uFFFD+$/, "");
  }
}

/** Return an empty past for each layer. */
function emptyCache(session) {
  const inputs = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values."));
  const empty = (shape) => new ort.Tensor("float32", new Float32Array(0), [1, shape[1], 0, shape[3]]);
  return Object.fromEntries(inputs.map(({ name, shape }) => [name, empty(shape)]));
}

function int64(values) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server says ${response.status} ${response.statusText}`);
  return response;
}

/** Return the `size` bytes at `url`, copied into place as they arrive, so memory never has them all twice. */
async function getBytes(url, size, onBytes) {
  const bytes = new Uint8Array(size);
  let filled = 0;
  for (const reader = (await get(url)).body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length <= size) bytes.set(value, filled);
    filled += value.length;
    onBytes(value.length);
  }
  if (filled !== size) throw new Error(`${url}: has ${filled} bytes instead of ${size}; export the model again`);
  return bytes;
}
