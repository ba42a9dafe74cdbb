// Compiled for AVX-VNNI (laptops without AVX-512): uses no inline function that other
// files use.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/matmul_kernel.h"

namespace treeline::cpu {
namespace {

#include "kernels/cpu/unroll-inl.h"
// After unroll-inl.h:
#include "kernels/cpu/int8_panel-inl.h"

// Not __m256i, which may alias anything: GCC would keep sums of that type in memory.
using Int32x8 = int32_t __attribute__((vector_size(32)));

struct AvxVnni {
  using Ints = Int32x8;
  using Floats = __m256;
  using Weights = Int32x8;
  using Activations = Int32x8;
  static constexpr int kLanes = 8, kVectors = 2, kMaxRows = 6;

  static Ints Set(int32_t value) { return (Ints)_mm256_set1_epi32(value); }
  static Ints LoadInts(const void* p) {
    return (Ints)_mm256_load_si256(static_cast<const __m256i*>(p));
  }
  static Ints LowNibbles(Ints a) { return a & 0x0f0f0f0f; }
  static Ints HighNibbles(Ints a) { return LowNibbles(a >> 4); }
  static Weights Unpack(Ints a) { return a; }
  static Activations Spread(const int8_t* x) {
    int32_t word;
    __builtin_memcpy(&word, x, 4);
    return (Ints)_mm256_set1_epi32(word);
  }
  static Ints Dot(Ints sum, Weights w, Activations x) {
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
  }
  static Floats SetFloat(float value) { return _mm256_set1_ps(value); }
  static Floats Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(Floats a, float* p) { _mm256_storeu_ps(p, a); }
  static Floats LoadHalves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Floats ToFloat(Ints a) { return _mm256_cvtepi32_ps((__m256i)a); }
  static Floats Add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats Mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats MulAdd(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
};

// __builtin_cpu_supports of GCC 12 does not know AVX-VNNI: CPUID leaf 7, subleaf 1, EAX bit 4.
bool IsSupported() {
  uint32_t eax, ebx, ecx, edx;
  asm volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(7), "c"(1));
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (eax >> 4 & 1) != 0;
}

}  // namespace

extern const MatMulKernel kInt8AvxVnniKernel = {
    "int8-avxvnni",
    ActivationType::kInt8,
    CpuLevel::kAvxVnni,
    IsSupported,
    {nullptr, nullptr, Int8Panel<AvxVnni>::RunInt8, Int8Panel<AvxVnni>::RunInt4}};

}  // namespace treeline::cpu
