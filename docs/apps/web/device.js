// Where the model runs: on the graphics card with WebGPU if possible, otherwise in WebAssembly; and why.

const WASM_BYTES = 2 ** 32; // all that WebAssembly can address
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

const UNITS = [
  [1e9, "GB"],
  [1e6, "MB"],
  [1e3, "kB"],
];

/** Return a number of bytes for people. */
function readable(bytes) {
  const [size, unit] = UNITS.find(([size]) => bytes >= size) ?? UNITS.at(-1);
  return `${(bytes / size).toPrecision(3)} ${unit}`;
}

/** Throw an error of one line if this browser cannot run the page at all. */
export function checkBrowser() {
  const missing = [
    ["WebAssembly with SIMD", globalThis.WebAssembly?.validate(new Uint8Array(SIMD))],
    ["64-bit integers in arrays", globalThis.BigInt64Array],
    ["workers", globalThis.Worker],
  ].filter(([, found]) => !found);
  if (missing.length) {
    throw new Error(`This browser is too old: it lacks ${missing.map(([name]) => name).join(" and ")}. Update it.`);
  }
}

/**
 * Return { device, why, threads, whyThreads } for an export, as `readExport` describes it.
 * Throw an error of one line if neither WebGPU nor WebAssembly can hold the model.
 */
export async function chooseDevice({ largestTensor, wasmBytes }) {
  const obstacle = await webgpuObstacle(largestTensor);
  if (!obstacle) return { device: "webgpu", why: "this browser has WebGPU", threads: 1, whyThreads: "" };

  const memory = navigator.deviceMemory * 2 ** 30; // NaN where the browser does not say
  const available = memory < WASM_BYTES ? memory : WASM_BYTES;
  if (wasmBytes > available) {
    const has = available === WASM_BYTES ? "at most" : "on this device only";
    throw new Error(
      `This model is too large here: ${obstacle}, and WebAssembly needs ${readable(wasmBytes)} of memory for it ` +
        `but has ${has} ${readable(available)}. Choose a smaller model.`,
    );
  }
  return { device: "wasm", why: obstacle, ...chooseThreads() };
}

/** Return how many threads WebAssembly gets, and why. */
export function chooseThreads() {
  if (!globalThis.crossOriginIsolated) {
    const whyThreads = "the server does not send the headers that threads need, see serve.py";
    return { threads: 1, whyThreads };
  }
  return { threads: Math.min(navigator.hardwareConcurrency, 8), whyThreads: "one per processor, at most 8" };
}

/** Return why WebGPU cannot run the model, or "" if it can. */
async function webgpuObstacle(largestTensor) {
  if (!navigator.gpu) return "this browser has no WebGPU";
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter) return "WebGPU finds no graphics card";
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const limit = Math.min(maxBufferSize, maxStorageBufferBindingSize);
  if (largestTensor <= limit) return "";
  return `the graphics card takes tensors of at most ${readable(limit)} and the model has one of ${readable(largestTensor)}`;
}
