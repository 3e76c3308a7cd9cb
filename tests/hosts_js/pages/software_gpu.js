// Chromium's software WebGPU (SwiftShader) has subgroups of 4, with which onnxruntime's attention is wrong by up to 0.9.
// Without the feature, onnxruntime takes shaders that need none. No product page does this.

if (globalThis.GPUAdapter) {
  const original = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = function (descriptor = {}) {
    const requiredFeatures = [...(descriptor.requiredFeatures ?? [])].filter((name) => !name.startsWith("subgroup"));
    return original.call(this, { ...descriptor, requiredFeatures });
  };
}
