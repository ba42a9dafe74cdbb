#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/int8_kernel.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <utility>

#include "kernels/cpu/matmul_kernel.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

#include "kernels/cpu/unroll-inl.h"
// After unroll-inl.h:
#include "kernels/cpu/int8_panel-inl.h"

// Dot products of bytes without an instruction for them: as 16-bit pairs on x86, else byte by
// byte in 32 bits.
struct Portable {
  using IntTag = hn::CappedTag<int32_t, 16>;
  using FloatTag = hn::CappedTag<float, 16>;
  using Ints = hn::Vec<IntTag>;
  using Floats = hn::Vec<FloatTag>;
  static constexpr int kLanes = HWY_MIN(HWY_LANES(float), 16);
  static constexpr int kVectors = 2;
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  static constexpr int kMaxRows = 10;
#else
  static constexpr int kMaxRows = 4;
#endif

  static HWY_INLINE Ints Set(int32_t value) { return hn::Set(IntTag(), value); }
  static HWY_INLINE Ints LoadInts(const void* p) {
    return hn::Load(IntTag(), static_cast<const int32_t*>(p));
  }
  static HWY_INLINE Ints LowNibbles(Ints a) { return hn::And(a, hn::Set(IntTag(), 0x0f0f0f0f)); }
  static HWY_INLINE Ints HighNibbles(Ints a) { return LowNibbles(hn::ShiftRight<4>(a)); }

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_SSSE3
  // Bytes 0 and 2 of every word, and bytes 1 and 3, as 16-bit integers.
  struct Weights {
    Ints even, odd;
  };
  using Activations = Weights;
  static HWY_INLINE Weights Unpack(Ints a) {
    const auto mask = hn::Set(IntTag(), 0x00ff00ff);
    return {hn::And(a, mask), hn::And(hn::ShiftRight<8>(a), mask)};
  }
  static HWY_INLINE Activations Spread(const int8_t* x) {
    const auto pair = [](int16_t low, int16_t high) {
      return hn::Set(IntTag(), static_cast<int32_t>(static_cast<uint32_t>(high) << 16 |
                                                    static_cast<uint16_t>(low)));
    };
    return {pair(x[0], x[2]), pair(x[1], x[3])};
  }
  static HWY_INLINE Ints Dot(Ints sum, Weights w, Activations x) {
    const hn::Repartition<int16_t, IntTag> d16;
    Ints unused = sum;  // Takes the other half of the sums on targets that split them.
    sum = hn::ReorderWidenMulAccumulate(IntTag(), hn::BitCast(d16, w.even),
                                        hn::BitCast(d16, x.even), sum, unused);
    return hn::ReorderWidenMulAccumulate(IntTag(), hn::BitCast(d16, w.odd), hn::BitCast(d16, x.odd),
                                         sum, unused);
  }
#else
  struct Weights {
    Ints bytes[4];
  };
  using Activations = Weights;
  static HWY_INLINE Weights Unpack(Ints a) {
    const auto mask = hn::Set(IntTag(), 0xff);
    return {{hn::And(a, mask), hn::And(hn::ShiftRight<8>(a), mask),
             hn::And(hn::ShiftRight<16>(a), mask), hn::And(hn::ShiftRight<24>(a), mask)}};
  }
  static HWY_INLINE Activations Spread(const int8_t* x) {
    return {{Set(x[0]), Set(x[1]), Set(x[2]), Set(x[3])}};
  }
  static HWY_INLINE Ints Dot(Ints sum, Weights w, Activations x) {
    for (int i = 0; i < 4; ++i) sum = hn::Add(sum, hn::Mul(w.bytes[i], x.bytes[i]));
    return sum;
  }
#endif

  static HWY_INLINE Floats SetFloat(float value) { return hn::Set(FloatTag(), value); }
  static HWY_INLINE Floats Load(const float* p) { return hn::LoadU(FloatTag(), p); }
  static HWY_INLINE void Store(Floats a, float* p) { hn::StoreU(a, FloatTag(), p); }
  static HWY_INLINE Floats LoadHalves(const uint16_t* p) {
    const hn::Rebind<hwy::float16_t, FloatTag> d16;
    const hn::Rebind<uint16_t, FloatTag> du16;
    return hn::PromoteTo(FloatTag(), hn::BitCast(d16, hn::LoadU(du16, p)));
  }
  static HWY_INLINE Floats ToFloat(Ints a) { return hn::ConvertTo(FloatTag(), a); }
  static HWY_INLINE Floats Add(Floats a, Floats b) { return hn::Add(a, b); }
  static HWY_INLINE Floats Mul(Floats a, Floats b) { return hn::Mul(a, b); }
  static HWY_INLINE Floats MulAdd(Floats a, Floats b, Floats c) { return hn::MulAdd(a, b, c); }
};

void PanelOfInt8(const PanelProduct& p) { Int8Panel<Portable>::RunInt8(p); }
void PanelOfInt4(const PanelProduct& p) { Int8Panel<Portable>::RunInt4(p); }

}  // namespace
}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(PanelOfInt8);
HWY_EXPORT(PanelOfInt4);

void RunInt8(const PanelProduct& p) { HWY_DYNAMIC_DISPATCH(PanelOfInt8)(p); }
void RunInt4(const PanelProduct& p) { HWY_DYNAMIC_DISPATCH(PanelOfInt4)(p); }

}  // namespace

extern const MatMulKernel kInt8Kernel = {"int8",
                                         ActivationType::kInt8,
                                         CpuLevel::kPortable,
                                         [] { return true; },
                                         {nullptr, nullptr, RunInt8, RunInt4}};

}  // namespace treeline::cpu
#endif  // HWY_ONCE
