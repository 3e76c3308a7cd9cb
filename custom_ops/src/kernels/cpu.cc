#include "kernels/cpu.h"

#include <cstdlib>
#include <initializer_list>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace llama3 {

#if defined(__x86_64__)

namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  Leaf(unsigned leaf, unsigned subleaf) { __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx); }
};

constexpr bool all_set(unsigned word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1)) return false;
  return true;
}

// Return the register state that the operating system saves, or 0 if it saves none (XGETBV would fault).
unsigned saved_state(const Leaf& leaf1) {
  if (!all_set(leaf1.ecx, {27})) return 0;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

bool supported(InstructionSet set) {
  const Leaf leaf1(1, 0), leaf7(7, 0), leaf7_1(7, 1);
  const unsigned state = saved_state(leaf1);
  const bool avx2 = (state & 0x06) == 0x06 && all_set(leaf1.ecx, {12 /*FMA*/, 28 /*AVX*/, 29 /*F16C*/}) &&
                    all_set(leaf7.ebx, {3 /*BMI1*/, 5 /*AVX2*/, 8 /*BMI2*/});
  switch (set) {
    case InstructionSet::kScalar:
      return true;
    case InstructionSet::kNEON:
      return false;
    case InstructionSet::kAVX2:
      return avx2;
    case InstructionSet::kAVX2_VNNI:
      return avx2 && all_set(leaf7_1.eax, {4 /*AVX-VNNI*/});
    case InstructionSet::kAVX512:
      return avx2 && (state & 0xe6) == 0xe6 && all_set(leaf7.ebx, {16 /*F*/, 17 /*DQ*/, 30 /*BW*/, 31 /*VL*/}) &&
             all_set(leaf7.ecx, {1 /*VBMI*/, 11 /*VNNI*/});
  }
  return false;
}

#elif defined(__aarch64__)

bool supported(InstructionSet set) {
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if (set == InstructionSet::kNEON) return getauxval(AT_HWCAP) & kDotProduct;
  return set == InstructionSet::kScalar;
}

#else

bool supported(InstructionSet set) { return set == InstructionSet::kScalar; }

#endif

namespace {

struct Name {
  std::string_view name;
  InstructionSet set;
};
constexpr Name kNames[] = {{"scalar", InstructionSet::kScalar},
                           {"neon", InstructionSet::kNEON},
                           {"avx2", InstructionSet::kAVX2},
                           {"avx2_vnni", InstructionSet::kAVX2_VNNI},
                           {"avx512", InstructionSet::kAVX512}};

InstructionSet choose() {
  auto highest = InstructionSet::kAVX512;
  if (const char* wanted = std::getenv("LLAMA3_CPU"))
    for (const Name& row : kNames)
      if (row.name == wanted) highest = row.set;
  auto best = InstructionSet::kScalar;
  for (const Name& row : kNames)
    if (row.set <= highest && supported(row.set)) best = row.set;
  return best;
}

}  // namespace

#if defined(__x86_64__)
bool is_amd() {
  const Leaf vendor(0, 0);  // "AuthenticAMD" in ebx, edx, ecx
  return vendor.ebx == 0x68747541 && vendor.edx == 0x69746e65 && vendor.ecx == 0x444d4163;
}

bool has_avx512_bf16() { return all_set(Leaf(7, 1).eax, {5}); }
#endif

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

}  // namespace llama3
