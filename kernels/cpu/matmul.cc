#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/matmul.h"
#include "kernels/float_types.h"
#include "kernels/quantization.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

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

// What QuantizeActivations does to a group of at most kQuantGroup values; returns the scale, and
// in `sum` the sum of codes.
float ConvertGroupToInt8(const float* HWY_RESTRICT x, int32_t count, int8_t* HWY_RESTRICT codes,
                         int32_t& sum) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<int8_t, FloatTag> d8;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d)), whole = count - count % lanes;
  auto largest = hn::Zero(d);
  auto zeros = hn::Zero(d);  // 0 x: NaN where x is not finite.
  for (int32_t i = 0; i < whole; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    largest = hn::Max(largest, hn::Abs(v));
    zeros = hn::MulAdd(v, hn::Zero(d), zeros);
  }
  float most = hn::GetLane(hn::MaxOfLanes(d, largest));
  float zero = hn::GetLane(hn::SumOfLanes(d, zeros));
  for (int32_t i = whole; i < count; ++i) {
    most = std::max(most, std::abs(x[i]));
    zero += 0 * x[i];
  }
  const bool is_finite = zero == 0;
  if (!is_finite || most == 0) {
    std::fill(codes, codes + count, int8_t{0});
    sum = 0;
    return is_finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = 127.0f / most;
  const auto scale = hn::Set(d, inverse), bound = hn::Set(d, 127.0f);
  auto sums = hn::Zero(di);
  for (int32_t i = 0; i < whole; i += lanes) {
    const auto scaled = hn::Mul(hn::LoadU(d, x + i), scale);
    const auto code = hn::NearestInt(hn::Max(hn::Neg(bound), hn::Min(bound, scaled)));
    sums = hn::Add(sums, code);
    hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i);
  }
  sum = hn::GetLane(hn::SumOfLanes(di, sums));
  for (int32_t i = whole; i < count; ++i) {
    codes[i] = static_cast<int8_t>(std::nearbyint(std::clamp(x[i] * inverse, -127.0f, 127.0f)));
    sum += codes[i];
  }
  return most / 127.0f;
}

// One row: codes, then for every group what PanelProduct wants of it, `stride` apart.
void ConvertToInt8(const float* HWY_RESTRICT x, int32_t k, int8_t* HWY_RESTRICT codes,
                   int64_t stride, float* HWY_RESTRICT scales, int32_t* HWY_RESTRICT zeros,
                   float* HWY_RESTRICT sums) {
  for (int32_t i = 0; i < k; i += kQuantGroup, scales += stride, zeros += stride, sums += stride) {
    const int32_t count = std::min(kQuantGroup, k - i);
    int32_t sum;
    *scales = ConvertGroupToInt8(x + i, count, codes + i, sum);
    *zeros = -kInt8ZeroPoint * sum;
    *sums = *scales * static_cast<float>(sum);
  }
}

// gate <- silu(gate) * up.
void SwiGlu(const float* HWY_RESTRICT up, int32_t n, float* HWY_RESTRICT gate) {
  const FloatTag d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  const auto one = hn::Set(d, 1.0f);
  const auto largest = hn::Set(d, 88.0f);  // Above, Highway's Exp is undefined; silu is 0 by then.
  for (int32_t i = 0; i < n; i += lanes) {
    const auto x = hn::LoadU(d, gate + i);
    const auto silu = hn::Div(x, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), largest))));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + i)), d, gate + i);
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

// Rows whose activations stay in the second-level cache while every panel passes by: a multiple
// of every kernel's tile.
constexpr int32_t kRowBlock = 96;
constexpr int32_t kRowsPerConversion = 8;

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

// Scales of a block of rows lie together, [groups, kRowBlock]: where those of `row`'s block begin.
int64_t FirstScale(int32_t row, int32_t k) {
  return int64_t{row / kRowBlock} * kRowBlock * CeilDiv(k, kQuantGroup);
}

void ConvertRow(const float* x, int32_t k, ActivationType type, int32_t row, int64_t stride,
                MatMulWorkspace& workspace) {
  std::byte* out = workspace.x[0].bytes + row * stride;
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

// Products of all rows of x, which are converted to what the kernel takes; without panel and y.
PanelProduct ConvertActivations(const float* x, int32_t rows, int32_t k, ActivationType type,
                                MatMulWorkspace& workspace, ThreadPool& pool) {
  PanelProduct product = {};
  product.rows = rows;
  product.k = k;
  product.x = x;
  product.x_stride = int64_t{k} * sizeof(float);
  if (type == ActivationType::kF32) return product;
  const int32_t bytes = type == ActivationType::kBF16 ? 2 * k : k;
  product.x_stride = int64_t{CeilDiv(bytes, kActivationBytes)} * kActivationBytes;
  const size_t lines = rows * product.x_stride / sizeof(MatMulWorkspace::CacheLine);
  if (workspace.x.size() < lines) workspace.x.resize(lines);
  product.x = workspace.x.data();
  if (type == ActivationType::kInt8) {
    const size_t groups = FirstScale(rows + kRowBlock - 1, k);
    if (workspace.scales.size() < groups) {
      workspace.scales.resize(groups);
      workspace.zeros.resize(groups);
      workspace.sums.resize(groups);
    }
    product.x_scales = workspace.scales.data();
    product.x_zeros = workspace.zeros.data();
    product.x_sums = workspace.sums.data();
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
      ConvertActivations(params.x, params.rows, matrix.k(), kernel.activations, workspace, pool);
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
      ConvertActivations(params.x, params.rows, gate.k(), kernel.activations, workspace, pool);
  ForEachBlock(all, gate.num_panels(), pool,
               [&](int32_t first_row, PanelProduct product, int32_t p) {
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
                 (results[1], product.rows * kPanelColumns, results[0]);
                 const int32_t columns = std::min(kPanelColumns, n - p * kPanelColumns);
                 for (int32_t row = 0; row < product.rows; ++row) {
                   std::copy_n(results[0] + row * kPanelColumns, columns,
                               params.y + int64_t{first_row + row} * n + p * kPanelColumns);
                 }
               });
}

}  // namespace treeline::cpu
#endif  // HWY_ONCE
