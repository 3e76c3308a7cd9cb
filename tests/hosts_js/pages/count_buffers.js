// Count the GPU buffers that exist and their bytes, and report them on a channel when asked.

if (globalThis.GPUDevice) {
  let count = 0;
  let bytes = 0;
  const sizes = new WeakMap();
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    sizes.set(buffer, descriptor.size);
    count += 1;
    bytes += descriptor.size;
    return buffer;
  };
  const { destroy } = GPUBuffer.prototype;
  GPUBuffer.prototype.destroy = function () {
    if (sizes.has(this)) {
      count -= 1;
      bytes -= sizes.get(this);
      sizes.delete(this);
    }
    return destroy.call(this);
  };
  const channel = new BroadcastChannel("gpu buffers");
  channel.onmessage = ({ data }) => data === "count" && channel.postMessage({ count, bytes });
}
