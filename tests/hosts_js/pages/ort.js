// Greedy decoding with onnxruntime's JavaScript API, of several prompts at once, padded on the left.

/** Create a session of the graph `folder/graph` with its weights files `data`, on the provider "wasm" or "webgpu". */
export async function open(ort, { provider, folder, graph, data, verbose }) {
  ort.env.logLevel = verbose ? "verbose" : "error";
  const bytes = async (name) => {
    const response = await fetch(`${folder}/${name}`);
    if (!response.ok) throw new Error(`${folder}/${name}: ${response.status}`);
    return new Uint8Array(await response.arrayBuffer());
  };
  return ort.InferenceSession.create(await bytes(graph), {
    executionProviders: [provider],
    externalData: await Promise.all(data.map(async (name) => ({ path: name.split("/").at(-1), data: await bytes(name) }))),
    ...(verbose && { logSeverityLevel: 0 }),
    ...(provider === "webgpu" && { preferredOutputLocation: "gpu-buffer" }),
  });
}

/** Continue the prompts `batch`, arrays of ids. Return each prompt's new ids, and each step's logits of all prompts. */
export async function greedy(ort, session, batch, steps) {
  const width = Math.max(...batch.map((ids) => ids.length));
  const padded = (ids, padding) => [...Array(width - ids.length).fill(padding), ...ids];
  const int64 = (rows) => new ort.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
  const caches = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values."));
  const empty = ({ shape }) => new ort.Tensor("float32", new Float32Array(0), [batch.length, shape[1], 0, shape[3]]);

  const ids = batch.map(() => []);
  const logits = [];
  const locations = new Set();
  let chunk = batch.map((prompt) => padded(prompt, 0));
  const mask = batch.map((prompt) => padded(Array(prompt.length).fill(1), 0));
  let past = Object.fromEntries(caches.map((input) => [input.name, empty(input)]));
  for (let step = 0; step < steps; step++) {
    const feeds = { input_ids: int64(chunk), attention_mask: int64(mask), ...past };
    const { logits: found, ...present } = await session.run(feeds);
    const values = await found.getData();
    const vocabulary = found.dims.at(-1);
    found.dispose();
    const rows = batch.map((_, i) => [...values.slice(i * vocabulary, (i + 1) * vocabulary)]);
    logits.push(rows);
    chunk = rows.map((row) => [row.reduce((best, value, id) => (value > row[best] ? id : best), 0)]);
    chunk.forEach(([id], i) => (ids[i].push(id), mask[i].push(1)));
    dispose(past);
    past = {};
    for (const [name, tensor] of Object.entries(present)) {
      past[name.replace("present", "past_key_values")] = tensor;
      locations.add(tensor.location);
    }
  }
  dispose(past);
  return { ids, logits, locations: [...locations] };
}

function dispose(tensors) {
  for (const tensor of Object.values(tensors)) tensor.dispose();
}
