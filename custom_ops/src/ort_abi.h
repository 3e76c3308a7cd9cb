// The part of ONNX Runtime's C ABI that this library needs, written from published facts, because no package ships the
// header.
//
// A host passes an ApiBase to the library. ApiBase::get_api(v) returns a table of function pointers that only grows at
// its end, so a position (Slot) and a signature identify a function. The library passes back one OpTable per op;
// `version` says how much of it is filled in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ort {

// Requested from the host and declared by each op: onnxruntime 1.23, the oldest that this library supports.
inline constexpr uint32_t kApiVersion = 23;

// The host's objects, used only through pointers.
struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TypeInfo;
struct ShapeInfo;
struct MemoryInfo;
struct ShapeContext;
struct Attribute;

enum class Error : int { kOk, kFail, kInvalidArgument };
enum class Element : int {
  kUndefined,
  kFloat,
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kInt32,
  kInt64,
  kString,
  kBool,
  kFloat16,
  kDouble
};
enum class Arity : int { kRequired, kOptional, kVariadic };
enum class AttributeType : int { kUndefined, kInt };
enum class MemoryType : int { kDefault = 0 };

struct Allocator {  // Created by the host; only these members are read here.
  uint32_t version;
  void* (*alloc)(Allocator*, size_t);
  void (*free)(Allocator*, void*);
  const MemoryInfo* (*info)(const Allocator*);
};

struct Api {
  void (*entries[1])();
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);  // Above the host's version: null, and a line on standard error.
  const char* (*version)();                 // "1.23.2"
};

template <class Signature>
struct Slot;
template <class Result, class... Parameters>
struct Slot<Result(Parameters...)> {
  uint16_t index;
  Result operator()(const Api* api, std::type_identity_t<Parameters>... parameters) const {
    return reinterpret_cast<Result (*)(Parameters...)>(api->entries[index])(parameters...);
  }
};

// Functions that return a Status* return null on success. Release a status that is not passed back to the host.
inline constexpr Slot<Status*(Error, const char*)> create_status{0};
inline constexpr Slot<const char*(const Status*)> status_message{2};
inline constexpr Slot<void(Status*)> release_status{93};

inline constexpr Slot<Status*(const char*, Domain**)> create_domain{26};
inline constexpr Slot<Status*(Domain*, const struct OpTable*)> domain_add_op{27};
inline constexpr Slot<Status*(SessionOptions*, Domain*)> add_domain{28};
inline constexpr Slot<Status*(SessionOptions*, const char* key, const char* value)> add_config_entry{130};
inline constexpr Slot<Status*(const SessionOptions*, const char* key, int* has)> has_config_entry{237};

inline constexpr Slot<Status*(Value*, void**)> mutable_data{51};
inline constexpr Slot<Status*(const Value*, ShapeInfo**)> shape_of{65};  // The caller releases the result.
// Type and dimensions without an allocation; borrowed from the value. Only on hosts of API 24 and later.
inline constexpr uint32_t kBorrowedShapeApi = 24;
inline constexpr Slot<Status*(const Value*, Element*, const int64_t**, size_t* rank)> borrowed_shape{414};

inline constexpr Slot<Status*(ShapeInfo**)> create_shape{57};
inline constexpr Slot<Status*(ShapeInfo*, Element)> set_element_type{58};
inline constexpr Slot<Status*(ShapeInfo*, const int64_t*, size_t)> set_dimensions{59};
inline constexpr Slot<Status*(const ShapeInfo*, size_t*)> dimension_count{61};
inline constexpr Slot<Status*(const ShapeInfo*, int64_t*, size_t)> dimensions{62};  // -1 if unknown.
inline constexpr Slot<Status*(const ShapeInfo*, const char**, size_t)> symbolic_dimensions{63};
inline constexpr Slot<Status*(ShapeInfo*, const char**, size_t)> set_symbolic_dimensions{271};
inline constexpr Slot<void(ShapeInfo*)> release_shape{99};

inline constexpr Slot<Status*(const TypeInfo*, const ShapeInfo**)> tensor_info{55};  // Borrowed from the TypeInfo.
inline constexpr Slot<void(TypeInfo*)> release_type{98};

inline constexpr Slot<Status*(const KernelInfo*, const char*, float*)> attribute_float{85};
inline constexpr Slot<Status*(const KernelInfo*, const char*, int64_t*)> attribute_int{86};
// The sizes of strings count the final NUL.
inline constexpr Slot<Status*(const KernelInfo*, const char*, char*, size_t*)> attribute_string{87};
inline constexpr Slot<Status*(const KernelInfo*, const char*, int64_t*, size_t*)> attribute_ints{163};
inline constexpr Slot<Status*(const KernelInfo*, size_t*)> info_input_count{230};
inline constexpr Slot<Status*(const KernelInfo*, size_t*)> info_output_count{231};
inline constexpr Slot<Status*(const KernelInfo*, size_t, TypeInfo**)> info_input_type{234};  // The caller releases it.
inline constexpr Slot<Status*(const KernelInfo*, char*, size_t*)> info_node_name{244};
inline constexpr Slot<Status*(const KernelInfo*, size_t, int* is_constant, const Value**)> info_constant_input{249};
inline constexpr Slot<Status*(const KernelInfo*, MemoryType, Allocator**)> info_allocator{278};
inline constexpr Slot<void(Allocator*)> release_allocator{132};

inline constexpr Slot<Status*(const KernelContext*, size_t*)> input_count{88};
inline constexpr Slot<Status*(const KernelContext*, size_t, const Value**)> input{90};
inline constexpr Slot<Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)> output{91};
// Call function(data, i) for each i below `total`, in `batches` (0: one per thread). The calling thread takes part.
inline constexpr Slot<Status*(const KernelContext*, void (*)(void*, size_t), size_t total, size_t batches, void* data)>
    parallel_for{274};

inline constexpr Slot<Status*(const ShapeContext*, size_t, ShapeInfo**)> shape_input{268};  // Borrowed: never release.
inline constexpr Slot<Status*(const ShapeContext*, const char*, const Attribute**)> shape_attribute{269};
inline constexpr Slot<Status*(ShapeContext*, size_t, const ShapeInfo*)> shape_set_output{270};
inline constexpr Slot<Status*(const Attribute*, AttributeType, void*, size_t bytes, size_t* needed)> read_attribute{
    272};

struct OpTable {
  uint32_t version;
  void* (*create)(const OpTable*, const Api*, const KernelInfo*);  // Superseded by create_v2.
  const char* (*name)(const OpTable*);
  const char* (*provider)(const OpTable*);  // Null: CPU.
  Element (*input_type)(const OpTable*, size_t);
  size_t (*input_types)(const OpTable*);
  Element (*output_type)(const OpTable*, size_t);
  size_t (*output_types)(const OpTable*);
  void (*compute)(void*, KernelContext*);  // Superseded by compute_v2.
  void (*destroy)(void*);
  Arity (*input_arity)(const OpTable*, size_t);
  Arity (*output_arity)(const OpTable*, size_t);
  MemoryType (*input_memory)(const OpTable*, size_t);
  int (*variadic_input_min)(const OpTable*);
  int (*variadic_input_homogeneous)(const OpTable*);
  int (*variadic_output_min)(const OpTable*);
  int (*variadic_output_homogeneous)(const OpTable*);
  Status* (*create_v2)(const OpTable*, const Api*, const KernelInfo*, void** kernel);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_shapes)(const OpTable*, ShapeContext*);  // May be null.
  int (*since)(const OpTable*);
  int (*until)(const OpTable*);
  size_t (*may_inplace)(int** inputs, int** outputs);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias)(int** inputs, int** outputs);
  void (*release_alias)(int*, int*);
};
static_assert(sizeof(void*) != 8 || sizeof(OpTable) == 208);

}  // namespace ort
