// Compiled for AVX-512 BF16: uses no inline function that other files use.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/matmul_kernel.h"

namespace treeline::cpu {
namespace {

#include "kernels/cpu/unroll-inl.h"

constexpr int kLanes = 16, kVectors = kPanelColumns / kLanes, kMaxRows = 12;

__m512 AddTo(const PanelProduct& p, const float* out, __mmask16 mask, __m512 value) {
  return p.accumulate ? _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), value) : value;
}

// kRows rows times the panel; every output sums products of pairs of k in order.
template <int kRows>
void Tile(const PanelProduct& p, int32_t row) {
  const char* panel = static_cast<const char*>(p.panel);
  const char* x = static_cast<const char*>(p.x) + row * p.x_stride;
  __m512 sums[kRows][kVectors];
  Unroll<kRows>([&](auto r) KERNEL_INLINE {
    Unroll<kVectors>([&](auto c) KERNEL_INLINE { sums[r][c] = _mm512_setzero_ps(); });
  });
  const int32_t pairs = (p.k + 1) / 2;
  for (int32_t i = 0; i < pairs; ++i) {
    __m512bh weights[kVectors];
    Unroll<kVectors>([&](auto c) KERNEL_INLINE {
      weights[c] = (__m512bh)_mm512_load_si512(panel + (int64_t{i} * kVectors + c) * 64);
    });
    Unroll<kRows>([&](auto r) KERNEL_INLINE {
      int32_t word;
      __builtin_memcpy(&word, x + r * p.x_stride + 4 * i, 4);
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(word);
      Unroll<kVectors>([&](auto c) KERNEL_INLINE {
        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], pair, weights[c]);
      });
    });
  }
  Unroll<kVectors>([&](auto c) KERNEL_INLINE {
    const int32_t columns = p.columns - c * kLanes;
    const __mmask16 mask =
        columns >= kLanes ? 0xffff : static_cast<__mmask16>((1 << (columns > 0 ? columns : 0)) - 1);
    Unroll<kRows>([&](auto r) KERNEL_INLINE {
      float* out = p.y + (row + r) * p.y_stride + c * kLanes;
      _mm512_mask_storeu_ps(out, mask, AddTo(p, out, mask, sums[r][c]));
    });
  });
}

void Run(const PanelProduct& p) {
  int32_t row = 0;
  for (; row + kMaxRows <= p.rows; row += kMaxRows) Tile<kMaxRows>(p, row);
  Unroll<kMaxRows>([&](auto rows) KERNEL_INLINE {
    if constexpr (decltype(rows)::kValue > 0) {
      if (rows == p.rows - row) Tile<decltype(rows)::kValue>(p, row);
    }
  });
}

bool IsSupported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

extern const MatMulKernel kBf16Avx512Kernel = {"bf16-avx512",
                                               ActivationType::kBF16,
                                               CpuLevel::kAvx512Dot,
                                               IsSupported,
                                               {nullptr, Run, nullptr, nullptr}};

}  // namespace treeline::cpu
