#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/fp32_kernel.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <utility>

#include "kernels/cpu/matmul_kernel.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#include "kernels/cpu/unroll-inl.h"

// Vectors of a panel held in registers at once, and the rows beside them: kRows * kVectors sums
// must fit the registers (32 of AVX-512, 16 of AVX2).
constexpr int kVectors = 2;
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
constexpr int kMaxRows = 12;
#else
constexpr int kMaxRows = 6;
#endif

// Panels are read in slices of at most 16 words.
using Tag = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Tag>;

template <int kRows>
inline KERNEL_INLINE void Accumulate(const Vector (&weights)[kVectors], const char* x,
                                     int64_t x_stride, Vector (&sums)[kRows][kVectors]) {
  Unroll<kRows>([&](auto r) KERNEL_INLINE {
    const auto value = hn::Set(Tag(), *reinterpret_cast<const float*>(x + r * x_stride));
    Unroll<kVectors>([&](auto c)
                         KERNEL_INLINE { sums[r][c] = hn::MulAdd(value, weights[c], sums[r][c]); });
  });
}

// kRows rows times kVectors vectors of a panel; every output is one chain of multiply-adds.
template <bool kBf16, int kRows>
void Tile(const PanelProduct& p, int32_t row, int32_t column) {
  const Tag d;
  const hn::RebindToUnsigned<Tag> du;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  const char* x = static_cast<const char*>(p.x) + row * p.x_stride;
  const uint32_t* panel = static_cast<const uint32_t*>(p.panel) + column;
  Vector sums[kRows][kVectors];
  Unroll<kRows>([&](auto r) KERNEL_INLINE {
    Unroll<kVectors>([&](auto c) KERNEL_INLINE { sums[r][c] = hn::Zero(d); });
  });
  constexpr int kPerWord = kBf16 ? 2 : 1;
  for (int32_t i = 0; i < p.k; i += kPerWord, panel += kPanelColumns) {
    Vector weights[kVectors];
    Unroll<kVectors>([&](auto c) KERNEL_INLINE {
      const auto word = hn::Load(du, panel + c * lanes);
      // A bf16 is the upper half of an fp32; the first of a pair lies in the lower half.
      weights[c] = hn::BitCast(d, kBf16 ? hn::ShiftLeft<16>(word) : word);
    });
    Accumulate<kRows>(weights, x + 4 * i, p.x_stride, sums);
    if (kBf16 && i + 1 < p.k) {
      Unroll<kVectors>([&](auto c) KERNEL_INLINE {
        const auto word = hn::Load(du, panel + c * lanes);
        weights[c] = hn::BitCast(d, hn::And(word, hn::Set(du, 0xffff0000u)));
      });
      Accumulate<kRows>(weights, x + 4 * i + 4, p.x_stride, sums);
    }
  }
  Unroll<kRows>([&](auto r) KERNEL_INLINE {
    Unroll<kVectors>([&](auto c) KERNEL_INLINE {
      const int32_t first = column + c * lanes;
      float* out = p.y + (row + r) * p.y_stride + first;
      if (first + lanes <= p.columns) {
        hn::StoreU(p.accumulate ? hn::Add(hn::LoadU(d, out), sums[r][c]) : sums[r][c], d, out);
        return;
      }
      HWY_ALIGN float edge[16] = {};
      hn::Store(sums[r][c], d, edge);
      for (int32_t i = 0; i < p.columns - first; ++i)
        out[i] = (p.accumulate ? out[i] : 0) + edge[i];
    });
  });
}

template <bool kBf16>
void Fp32Panel(const PanelProduct& p) {
  const int32_t columns = kVectors * static_cast<int32_t>(hn::Lanes(Tag()));
  for (int32_t column = 0; column < p.columns; column += columns) {
    int32_t row = 0;
    for (; row + kMaxRows <= p.rows; row += kMaxRows) Tile<kBf16, kMaxRows>(p, row, column);
    Unroll<kMaxRows>([&](auto rows) KERNEL_INLINE {
      if constexpr (decltype(rows)::kValue > 0) {
        if (rows == p.rows - row) Tile<kBf16, decltype(rows)::kValue>(p, row, column);
      }
    });
  }
}

void PanelOfFp32(const PanelProduct& p) { Fp32Panel<false>(p); }
void PanelOfBf16(const PanelProduct& p) { Fp32Panel<true>(p); }

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(PanelOfFp32);
HWY_EXPORT(PanelOfBf16);

void RunFp32(const PanelProduct& p) { HWY_DYNAMIC_DISPATCH(PanelOfFp32)(p); }
void RunBf16(const PanelProduct& p) { HWY_DYNAMIC_DISPATCH(PanelOfBf16)(p); }

}  // namespace

extern const MatMulKernel kFp32Kernel = {"fp32",
                                         ActivationType::kF32,
                                         CpuLevel::kPortable,
                                         [] { return true; },
                                         {RunFp32, RunBf16, nullptr, nullptr}};

}  // namespace treeline::cpu
#endif  // HWY_ONCE
