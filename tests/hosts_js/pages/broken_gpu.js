// A graphics card that WebGPU cannot open.

GPUAdapter.prototype.requestDevice = () => Promise.reject(new Error("this card is broken"));
