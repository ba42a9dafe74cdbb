#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/ops.h"
#include "kernels/float_types.h"
#include "kernels/quantization.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#include "kernels/cpu/unroll-inl.h"

using FloatTag = hn::CappedTag<float, 16>;
using WordTag = hn::RebindToUnsigned<FloatTag>;

// What FloatToBf16 does to every value.
void ConvertToBf16(const float* HWY_RESTRICT x, int32_t k, uint16_t* HWY_RESTRICT out) {
  const FloatTag d;
  const WordTag du;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  int32_t i = 0;
  for (; i + lanes <= k; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    const auto bits = hn::BitCast(du, v);
    const auto last_kept_bit = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const auto rounded = hn::Add(bits, hn::Add(hn::Set(du, 0x7fff), last_kept_bit));
    const auto nan = hn::Or(bits, hn::Set(du, 0x00400000));
    const auto kept = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), nan, rounded);
    hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(kept)), d16, out + i);
  }
  for (; i < k; ++i) out[i] = FloatToBf16(x[i]);
}

// What QuantizeActivations does to a group of kQuantGroup values, in registers all the way: in a
// prefill this is done to as many values as the products give.
HWY_INLINE float ConvertGroupToInt8(const float* HWY_RESTRICT x, int8_t* HWY_RESTRICT codes,
                                    int32_t& sum) {
  constexpr int kLanes = HWY_MIN(HWY_LANES(float), 16), kVectors = kQuantGroup / kLanes;
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<int8_t, FloatTag> d8;
  // Bits of magnitudes order as the magnitudes do, infinity and NaN above all.
  const auto magnitude = hn::Set(di, 0x7fffffff);
  hn::Vec<FloatTag> values[kVectors];
  auto largest_bits = hn::Zero(di);
  Unroll<kVectors>([&](auto i) KERNEL_INLINE {
    values[i] = hn::LoadU(d, x + i * kLanes);
    largest_bits = hn::Max(largest_bits, hn::And(hn::BitCast(di, values[i]), magnitude));
  });
  const float largest = std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(di, largest_bits)));
  const bool is_finite = std::isfinite(largest);
  const bool is_zero = largest < kSmallestActivation;
  const auto inverse = hn::Set(d, is_finite && !is_zero ? 127.0f / largest : 0.0f);
  auto sums = hn::Zero(di);
  Unroll<kVectors>([&](auto i) KERNEL_INLINE {
    const auto code = hn::NearestInt(hn::Mul(values[i], inverse));
    sums = hn::Add(sums, code);
    hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i * kLanes);
  });
  sum = hn::GetLane(hn::SumOfLanes(di, sums));
  if (is_finite) return is_zero ? 0.0f : largest * (1.0f / 127);
  std::fill_n(codes, kQuantGroup, int8_t{0});  // 0 * infinity and NaN gave whatever they give.
  sum = 0;
  return std::numeric_limits<float>::quiet_NaN();
}

// One row: codes, then for every group what PanelProduct wants of it, `stride` apart.
void ConvertToInt8(const float* HWY_RESTRICT x, int32_t k, int8_t* HWY_RESTRICT codes,
                   int64_t stride, float* HWY_RESTRICT scales, int32_t* HWY_RESTRICT zeros,
                   float* HWY_RESTRICT sums) {
  for (int32_t i = 0; i < k; i += kQuantGroup, scales += stride, zeros += stride, sums += stride) {
    int32_t sum;
    if (i + kQuantGroup <= k) {
      *scales = ConvertGroupToInt8(x + i, codes + i, sum);
    } else {  // Zeros behind the last group change nothing.
      float values[kQuantGroup] = {};
      int8_t padded[kQuantGroup];
      std::copy(x + i, x + k, values);
      *scales = ConvertGroupToInt8(values, padded, sum);
      std::copy_n(padded, k - i, codes + i);
    }
    *zeros = -kInt8ZeroPoint * sum;
    *sums = *scales * static_cast<float>(sum);
  }
}

// y = silu(gate) * up, for `columns` columns of rows of a whole panel.
void SwiGlu(const float* HWY_RESTRICT gate, const float* HWY_RESTRICT up, int32_t rows,
            int32_t columns, float* HWY_RESTRICT y, int64_t y_stride) {
  const FloatTag d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  const auto one = hn::Set(d, 1.0f);
  const auto largest = hn::Set(d, 88.0f);  // Above, Highway's Exp is undefined; silu is 0 by then.
  for (int32_t row = 0; row < rows; ++row, y += y_stride) {
    for (int32_t c = 0; c < columns; c += lanes, gate += lanes, up += lanes) {
      const auto x = hn::LoadU(d, gate);
      const auto silu = hn::Div(x, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), largest))));
      const auto value = hn::Mul(silu, hn::LoadU(d, up));
      if (c + lanes <= columns) {
        hn::StoreU(value, d, y + c);
        continue;
      }
      HWY_ALIGN float edge[16];
      hn::Store(value, d, edge);
      std::copy_n(edge, columns - c, y + c);
    }
    const int32_t skipped = kPanelColumns - (columns + lanes - 1) / lanes * lanes;
    gate += skipped;
    up += skipped;
  }
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(ConvertToBf16);
HWY_EXPORT(ConvertToInt8);
HWY_EXPORT(SwiGlu);

// Rows whose activations stay in the second-level cache while every panel passes by; whole tiles of
// most kernels.
constexpr int32_t kRowBlock = 96;
// Rows of a conversion task: their scales fill whole cache lines, which no other task writes to.
constexpr int32_t kRowsPerConversion = 16;

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

// Scales of a block of rows lie together, [groups, kRowBlock]: where those of `row`'s block begin.
int64_t FirstScale(int32_t row, int32_t k) {
  return int64_t{row / kRowBlock} * kRowBlock * CeilDiv(k, kQuantGroup);
}

void ConvertRow(const float* x, int32_t k, ActivationType type, int32_t row, int64_t stride,
                MatMulWorkspace& workspace) {
  std::byte* out = workspace.x.data() + row * stride;
  if (type == ActivationType::kBF16) {
    HWY_DYNAMIC_DISPATCH(ConvertToBf16)(x, k, reinterpret_cast<uint16_t*>(out));
    std::fill(out + int64_t{k} * 2, out + stride, std::byte{0});
    return;
  }
  const int64_t first = FirstScale(row, k) + row % kRowBlock;
  HWY_DYNAMIC_DISPATCH(ConvertToInt8)
  (x, k, reinterpret_cast<int8_t*>(out), kRowBlock, workspace.scales.data() + first,
   workspace.zeros.data() + first, workspace.sums.data() + first);
  std::fill(out + k, out + stride, std::byte{0});
}

// Products of all rows of params.x, which are normalised and converted to what the kernel takes;
// without panel and y.
template <class Params>
PanelProduct ConvertActivations(const Params& params, int32_t k, ActivationType type,
                                MatMulWorkspace& workspace, ThreadPool& pool) {
  const float* x = params.x;
  const int32_t rows = params.rows;
  if (params.norm.weight != nullptr) {
    float* normed = workspace.normed.Resize(size_t(rows) * k);
    RmsNorm({x, params.norm.weight, normed, rows, k, params.norm.eps}, pool);
    x = normed;
  }
  PanelProduct product = {};
  product.rows = rows;
  product.k = k;
  product.x = x;
  product.x_stride = int64_t{k} * sizeof(float);
  if (type == ActivationType::kF32) return product;
  const int32_t bytes = type == ActivationType::kBF16 ? 2 * k : k;
  product.x_stride = int64_t{CeilDiv(bytes, kActivationBytes)} * kActivationBytes;
  product.x = workspace.x.Resize(rows * product.x_stride);
  if (type == ActivationType::kInt8) {
    const size_t groups = FirstScale(rows + kRowBlock - 1, k);
    product.x_scales = workspace.scales.Resize(groups);
    product.x_zeros = workspace.zeros.Resize(groups);
    product.x_sums = workspace.sums.Resize(groups);
    product.x_group_stride = kRowBlock;
  }
  pool.ParallelFor(CeilDiv(rows, kRowsPerConversion), [&](int64_t task, int32_t) {
    const int32_t begin = static_cast<int32_t>(task) * kRowsPerConversion;
    for (int32_t row = begin; row < std::min(begin + kRowsPerConversion, rows); ++row) {
      ConvertRow(x + int64_t{row} * k, k, type, row, product.x_stride, workspace);
    }
  });
  return product;
}

// `all` from row `first` on, at most kRowBlock rows.
PanelProduct RowBlock(const PanelProduct& all, int32_t first) {
  PanelProduct block = all;
  block.x = static_cast<const std::byte*>(all.x) + first * all.x_stride;
  block.rows = std::min(kRowBlock, all.rows - first);
  if (all.x_scales != nullptr) {
    block.x_scales += FirstScale(first, all.k);
    block.x_zeros += FirstScale(first, all.k);
    block.x_sums += FirstScale(first, all.k);
  }
  return block;
}

// Calls function(first_row, block, panel) for every block of rows and panel, on all threads.
template <class Function>
void ForEachBlock(const PanelProduct& all, int32_t panels, ThreadPool& pool,
                  const Function& function) {
  // Neighbouring panels are streamed by one thread; enough tasks that no thread waits long.
  const int32_t panels_per_task = std::max(1, panels / (8 * pool.num_threads()));
  const int32_t blocks = CeilDiv(all.rows, kRowBlock), tasks = CeilDiv(panels, panels_per_task);
  pool.ParallelFor(int64_t{blocks} * tasks, [&](int64_t i, int32_t) {
    const int32_t first_row = static_cast<int32_t>(i / tasks) * kRowBlock;
    const int32_t first_panel = static_cast<int32_t>(i % tasks) * panels_per_task;
    const PanelProduct block = RowBlock(all, first_row);
    for (int32_t p = first_panel; p < std::min(first_panel + panels_per_task, panels); ++p) {
      function(first_row, block, p);
    }
  });
}

}  // namespace

std::vector<const MatMulKernel*> MatMulKernels(WeightType type) {
  std::vector<const MatMulKernel*> kernels;
  for (const MatMulKernel* kernel : {
         &kFp32Kernel,
#if defined(__x86_64__)
             &kBf16Avx512Kernel, &kBf16AmxKernel,
#endif
             &kInt8Kernel,
#if defined(__x86_64__)
             &kInt8AvxVnniKernel, &kInt8Avx512VnniKernel, &kInt8AmxKernel,
#endif
       }) {
    if (kernel->Takes(type) && MayUse(kernel->level) && kernel->is_supported()) {
      kernels.push_back(kernel);
    }
  }
  return kernels;
}

void MatMul(const MatMulParams& params, const PackedMatrix& matrix, const MatMulKernel& kernel,
            MatMulWorkspace& workspace, ThreadPool& pool) {
  const int32_t n = matrix.n();
  const MatMulKernel::Run run = kernel.run[static_cast<int>(matrix.type())];
  const PanelProduct all =
      ConvertActivations(params, matrix.k(), kernel.activations, workspace, pool);
  ForEachBlock(all, matrix.num_panels(), pool,
               [&](int32_t first_row, PanelProduct product, int32_t p) {
                 product.panel = matrix.panel(p);
                 product.y = params.y + int64_t{first_row} * n + p * kPanelColumns;
                 product.y_stride = n;
                 product.columns = std::min(kPanelColumns, n - p * kPanelColumns);
                 product.accumulate = params.accumulate;
                 run(product);
               });
}

void GatedMatMul(const GatedMatMulParams& params, const PackedMatrix& gate, const PackedMatrix& up,
                 const MatMulKernel& kernel, MatMulWorkspace& workspace, ThreadPool& pool) {
  const int32_t n = gate.n();
  const PanelProduct all =
      ConvertActivations(params, gate.k(), kernel.activations, workspace, pool);
  ForEachBlock(
      all, gate.num_panels(), pool, [&](int32_t first_row, PanelProduct product, int32_t p) {
        // Both panels' results stay in the cache until they are one.
        alignas(64) float results[2][kRowBlock * kPanelColumns];
        product.y_stride = product.columns = kPanelColumns;
        for (int i = 0; i < 2; ++i) {
          const PackedMatrix& matrix = i == 0 ? gate : up;
          const float* bias = i == 0 ? params.gate_bias : params.up_bias;
          product.panel = matrix.panel(p);
          product.y = results[i];
          kernel.run[static_cast<int>(matrix.type())](product);
          if (bias == nullptr) continue;
          for (int32_t j = 0; j < product.rows * kPanelColumns; ++j) {
            const int32_t column = p * kPanelColumns + j % kPanelColumns;
            if (column < n) results[i][j] += bias[column];
          }
        }
        HWY_DYNAMIC_DISPATCH(SwiGlu)
        (results[0], results[1], product.rows, std::min(kPanelColumns, n - p * kPanelColumns),
         params.y + int64_t{first_row} * n + p * kPanelColumns, n);
      });
}

}  // namespace treeline::cpu
#endif  // HWY_ONCE
