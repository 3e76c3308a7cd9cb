// The files of an export made with --target web: which ones a device reads, and how much memory they need.

const SUFFIXES = { fp32: "", q4: "_q4" }; // transformers.js's, of the graph's name

/** Read the small files of the export at the URL `folder`. */
export async function readExport(folder) {
  const json = async (name) => (await get(`${folder}/${name}`)).json();
  const [manifest, config] = [await json("llama3.json"), await json("config.json")];
  const devices = config["transformers.js_config"]?.device_config;
  if (!devices) throw new Error(`${folder}: not an export for browsers; export it with --target web`);
  const { dtype } = devices.webgpu;
  const graph = await (await get(`${folder}/onnx/model${SUFFIXES[dtype]}.onnx`)).arrayBuffer();
  const weightsBytes = manifest.weights.reduce((sum, { size }) => sum + size, 0);
  return {
    name: manifest.source.name,
    largestTensor: largestTensor(graph),
    weightsBytes,
    // WebAssembly unpacks linears to float32, four bytes per weight, and needs half as much again while it loads.
    wasmBytes: 6 * numLinearWeights(manifest, config) + weightsBytes,
  };
}

/** Return the names of a device's graph and weights files, with the sizes and checksums of the latter. */
export async function filesFor(folder, device) {
  const [manifest, config] = await Promise.all(
    ["llama3.json", "config.json"].map(async (name) => (await get(`${folder}/${name}`)).json()),
  );
  const { dtype } = config["transformers.js_config"].device_config[device];
  const graph = `model${SUFFIXES[dtype]}.onnx`;
  // Both graphs read the same bytes, which the manifest lists once.
  const weights = manifest.weights.map((file) => ({ ...file, name: graph + file.name.slice(file.name.indexOf("_data")) }));
  return { graph, weights, maxLength: manifest.options.max_length };
}

/** Fetch a file, past the browser's own cache, which may have an older one; an HTTP error is an error. */
export async function get(url) {
  const response = await fetch(url, { cache: "no-store" });
  if (!response.ok) throw new Error(`${url}: the server says ${response.status} ${response.statusText}`);
  return response;
}

/** Return the bytes of a graph's largest tensor in a weights file: its field `length`, a string in ONNX. */
function largestTensor(graph) {
  const text = new TextDecoder("latin1").decode(graph);
  const lengths = [...text.matchAll(/\n\x06length\x12[\x01-\x14](\d+)/g)].map(([, digits]) => Number(digits));
  return Math.max(0, ...lengths);
}

function numLinearWeights({ types }, { vocab_size, hidden_size, tie_word_embeddings }) {
  const all = Object.values(types).reduce((sum, { parameters }) => sum + parameters, 0);
  return tie_word_embeddings ? all : all - vocab_size * hidden_size;
}
