// The library's only exported function, which adds the ops to a host's session options.
#include <array>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ops/block_quantized_gather.h"
#include "ops/block_quantized_matmul.h"
#include "ops/cached_attention.h"
#include "ops/elementwise.h"
#include "ort_op.h"

namespace llama3 {
namespace {

// The ops for one copy of ONNX Runtime. A process may have two copies, and each needs its own objects. They are never
// destroyed, and the library is never unloaded (-z nodelete), because sessions keep pointers to both.
struct Registration {
  Host host;
  std::array<Op, 7> ops;
  ort::Domain* llama3 = nullptr;
  ort::Domain* nxrt = nullptr;

  explicit Registration(const Host& h)
      : host(h),
        ops{make_op<BlockQuantizedMatMul>(host),
            make_op<BlockQuantizedMatMuls>(host),
            make_op<BlockQuantizedGather>(host),
            make_op<CachedAttentionFloat16>(host),
            make_op<CachedAttentionFloat32>(host),
            make_op<SwiGLU>(host),
            make_op<AddRMSNorm>(host)} {
    check(host.api, ort::create_domain(host.api, "llama3", &llama3));
    for (const Op& op : ops) check(host.api, ort::domain_add_op(host.api, llama3, &op));
    // mobius's domain, to run its exports as well.
    check(host.api, ort::create_domain(host.api, "pkg.nxrt", &nxrt));
    check(host.api, ort::domain_add_op(host.api, nxrt, &ops[0]));
  }
};

const Registration& registration_for(const Host& host) {
  static std::mutex& mutex = *new std::mutex;
  static auto& all = *new std::vector<std::unique_ptr<const Registration>>;
  const std::lock_guard lock(mutex);
  for (const auto& registration : all)
    if (registration->host.api == host.api) return *registration;
  return *all.emplace_back(std::make_unique<const Registration>(host));
}

void add_to(ort::SessionOptions* options, const Host& host) {
  const Registration& registration = registration_for(host);
  // Adding a domain twice makes the session fail, so mark the options.
  constexpr const char* kMark = "llama3.custom_ops.registered";
  int marked = 0;
  check(host.api, ort::has_config_entry(host.api, options, kMark, &marked));
  if (marked) return;
  check(host.api, ort::add_domain(host.api, options, registration.llama3));
  check(host.api, ort::add_domain(host.api, options, registration.nxrt));
  check(host.api, ort::add_config_entry(host.api, options, kMark, "1"));
}

// Return the number of the host's API, which is its minor version.
uint32_t api_version(const char* version) {
  char* rest = nullptr;
  const unsigned long major = std::strtoul(version, &rest, 10);
  if (major > 1) return UINT32_MAX;
  return *rest == '.' ? static_cast<uint32_t>(std::strtoul(rest + 1, nullptr, 10)) : 0;
}

}  // namespace
}  // namespace llama3

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                 const ort::ApiBase* base) {
  // Read the host's version first: requesting an API that it does not have prints to standard error.
  const uint32_t version = llama3::api_version(base->version());
  const ort::Api* api = version >= ort::kApiVersion ? base->get_api(ort::kApiVersion) : nullptr;
  if (!api) {
    const std::string message =
        std::string("the llama3 ops need onnxruntime 1.23 or later; this is ") + base->version();
    return ort::create_status(base->get_api(1), ort::Error::kFail, message.c_str());
  }
  return llama3::op_detail::guarded(api, [&] { llama3::add_to(options, {api, version}); });
}
