// A graphics card that gives no device.

GPUAdapter.prototype.requestDevice = () => Promise.reject(new Error("this card is broken"));
