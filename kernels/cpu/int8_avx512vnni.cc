// Compiled for AVX-512 VNNI: uses no inline function that other files use.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/matmul_kernel.h"

namespace treeline::cpu {
namespace {

#include "kernels/cpu/unroll-inl.h"
// After unroll-inl.h:
#include "kernels/cpu/int8_panel-inl.h"

// Not __m512i, which may alias anything: GCC would keep sums of that type in memory.
using Int32x16 = int32_t __attribute__((vector_size(64)));

struct Avx512Vnni {
  using Ints = Int32x16;
  using Floats = __m512;
  using Weights = Int32x16;
  using Activations = Int32x16;
  static constexpr int kLanes = 16, kVectors = 2, kMaxRows = 12;

  static Ints Set(int32_t value) { return (Ints)_mm512_set1_epi32(value); }
  static Ints LoadInts(const void* p) { return (Ints)_mm512_load_si512(p); }
  static Ints LowNibbles(Ints a) { return a & 0x0f0f0f0f; }
  static Ints HighNibbles(Ints a) { return LowNibbles(a >> 4); }
  static Weights Unpack(Ints a) { return a; }
  static Activations Spread(const int8_t* x) {
    int32_t word;
    __builtin_memcpy(&word, x, 4);
    return (Ints)_mm512_set1_epi32(word);
  }
  static Ints Dot(Ints sum, Weights w, Activations x) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
  }
  static Floats SetFloat(float value) { return _mm512_set1_ps(value); }
  static Floats Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(Floats a, float* p) { _mm512_storeu_ps(p, a); }
  static Floats LoadHalves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Floats ToFloat(Ints a) { return _mm512_cvtepi32_ps((__m512i)a); }
  static Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats Mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats MulAdd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
};

bool IsSupported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

extern const MatMulKernel kInt8Avx512VnniKernel = {
    "int8-avx512vnni",
    ActivationType::kInt8,
    CpuLevel::kAvx512Dot,
    IsSupported,
    {nullptr, nullptr, Int8Panel<Avx512Vnni>::RunInt8, Int8Panel<Avx512Vnni>::RunInt4}};

}  // namespace treeline::cpu
