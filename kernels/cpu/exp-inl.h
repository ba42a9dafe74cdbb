// e^x for the weights of a softmax, per SIMD target.
//
// A per-target header in Highway's manner: included again for each target.

#if defined(TREELINE_KERNELS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TREELINE_KERNELS_CPU_EXP_INL_H_
#undef TREELINE_KERNELS_CPU_EXP_INL_H_
#else
#define TREELINE_KERNELS_CPU_EXP_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// e^x for x <= 0, to 1e-7 of itself; 0 below -87, NaN of NaN. For x > 0 the result is anything.
// Half the work of hn::Exp, which also serves x > 0 and denormal results.
template <class D>
HWY_INLINE hn::Vec<D> ExpOfNonPositive(D d, hn::Vec<D> x) {
  // x = n ln 2 + r with n an integer, |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer and
  // leaves it in the low bits.
  const auto magic = hn::Set(d, 12582912.0f);
  const auto shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), magic);
  const auto n = hn::Sub(shifted, magic);
  // ln 2 in two parts, n times the first exact.
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::MulAdd(n, hn::Set(d, 2.12194440e-4f), r);
  // e^r = 1 + r + r^2 q(r), q the minimax polynomial.
  auto q = hn::Set(d, 0x1.6a2434p-10f);
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.1239e2p-7f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.5558f2p-5f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.555492p-3f));
  q = hn::MulAdd(q, r, hn::Set(d, 0x1.fffffcp-2f));
  const auto e = hn::Add(hn::MulAdd(q, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  // Times 2^n: n is added to the exponent.
  const hn::RebindToSigned<D> di;
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  const auto scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, e), exponent));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.0f)), scaled);
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
