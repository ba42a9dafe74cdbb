#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <algorithm>

#include "kernels/cpu/matmul.h"
#include "kernels/float_types.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Panels are read in slices of at most 16 floats, so wider vectors than AVX-512's gain nothing.
using Tag = hn::CappedTag<float, 16>;

template <class D>
hn::Vec<D> LoadWeights(D d, const float* weights) {
  return hn::Load(d, weights);
}
// A bf16 is the upper half of an fp32.
template <class D>
hn::Vec<D> LoadWeights(D d, const uint16_t* weights) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::Load(d16, weights))));
}

// kRows rows times one panel. Tile size: kRows * kPanel/lanes accumulators, which must fit
// the registers (32 of AVX-512, 16 of AVX2).
template <int kRows, int kVectors, class Weight>
void Tile(const float* HWY_RESTRICT x, int32_t k, const Weight* HWY_RESTRICT panel,
          float* HWY_RESTRICT y, int32_t n, int32_t columns, bool accumulate) {
  const Tag d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  for (int32_t first = 0; first < PackedMatrix::kPanel; first += kVectors * lanes) {
    if (first >= columns) return;
    hn::Vec<Tag> sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) sums[r][c] = hn::Zero(d);
    }
    const Weight* HWY_RESTRICT w = panel + first;
    for (int32_t i = 0; i < k; ++i, w += PackedMatrix::kPanel) {
      hn::Vec<Tag> weights[kVectors];
      for (int c = 0; c < kVectors; ++c) weights[c] = LoadWeights(d, w + c * lanes);
      for (int r = 0; r < kRows; ++r) {
        const auto value = hn::Set(d, x[int64_t{r} * k + i]);
        for (int c = 0; c < kVectors; ++c) {
          sums[r][c] = hn::MulAdd(value, weights[c], sums[r][c]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) {
        const int32_t column = first + c * lanes;
        float* HWY_RESTRICT out = y + int64_t{r} * n + column;
        if (column + lanes <= columns) {
          hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, out), sums[r][c]) : sums[r][c], d, out);
          continue;
        }
        HWY_ALIGN float edge[16] = {};
        hn::Store(sums[r][c], d, edge);
        for (int32_t i = 0; i < columns - column; ++i) {
          out[i] = accumulate ? out[i] + edge[i] : edge[i];
        }
      }
    }
  }
}

// Vectors of a panel held in registers at once, and the rows beside them.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
constexpr int kVectors = 2;
constexpr int kMaxRows = 12;
#else
constexpr int kVectors = 2;
constexpr int kMaxRows = 4;
#endif

template <class Weight>
void PanelRows(const float* x, int32_t rows, int32_t k, const Weight* panel, float* y, int32_t n,
               int32_t columns, bool accumulate) {
  int32_t row = 0;
  const auto tile = [&](auto tile_rows) {
    constexpr int kRows = decltype(tile_rows)::value;
    for (; row + kRows <= rows; row += kRows) {
      Tile<kRows, kVectors>(x + int64_t{row} * k, k, panel, y + int64_t{row} * n, n, columns,
                            accumulate);
    }
  };
  tile(std::integral_constant<int, kMaxRows>());
  tile(std::integral_constant<int, 4>());
  tile(std::integral_constant<int, 1>());
}

void PanelProduct(const MatMulParams& params, const PackedMatrix& matrix, int32_t first_row,
                  int32_t rows, int32_t panel) {
  const int32_t n = matrix.n(), k = matrix.k(), column = panel * PackedMatrix::kPanel;
  const float* x = params.x + int64_t{first_row} * k;
  float* y = params.y + int64_t{first_row} * n + column;
  const int32_t columns = std::min(PackedMatrix::kPanel, n - column);
  if (matrix.type() == WeightType::kF32) {
    PanelRows(x, rows, k, static_cast<const float*>(matrix.panel(panel)), y, n, columns,
              params.accumulate);
  } else {
    PanelRows(x, rows, k, static_cast<const uint16_t*>(matrix.panel(panel)), y, n, columns,
              params.accumulate);
  }
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(PanelProduct);

// Rows whose activations stay in the second-level cache while every panel passes by.
constexpr int32_t kRowBlock = 96;
// Panels a task takes.
constexpr int32_t kPanelsPerTask = 4;

size_t ElementSize(WeightType type) {
  return type == WeightType::kF32 ? sizeof(float) : sizeof(uint16_t);
}

int32_t NumPanels(int32_t n) { return (n + PackedMatrix::kPanel - 1) / PackedMatrix::kPanel; }

}  // namespace

PackedMatrix::PackedMatrix(WeightType type, int32_t n, int32_t k)
    : type_(type),
      n_(n),
      k_(k),
      data_(size_t(NumPanels(n)) * k * kPanel * ElementSize(type) / sizeof(CacheLine)) {}

const void* PackedMatrix::panel(int32_t p) const {
  return reinterpret_cast<const std::byte*>(data_.data()) +
         size_t(p) * k_ * kPanel * ElementSize(type_);
}

size_t PackedMatrix::ElementOffset(int32_t row) const {
  return size_t(row / kPanel) * k_ * kPanel + row % kPanel;
}

void PackedMatrix::SetRow(int32_t row, std::span<const float> values) {
  const size_t offset = ElementOffset(row);
  if (type_ == WeightType::kF32) {
    float* out = reinterpret_cast<float*>(data_.data()) + offset;
    for (size_t i = 0; i < values.size(); ++i) out[i * kPanel] = values[i];
  } else {
    uint16_t* out = reinterpret_cast<uint16_t*>(data_.data()) + offset;
    for (size_t i = 0; i < values.size(); ++i) out[i * kPanel] = FloatToBf16(values[i]);
  }
}

void PackedMatrix::GetRow(int32_t row, std::span<float> values) const {
  const size_t offset = ElementOffset(row);
  if (type_ == WeightType::kF32) {
    const float* in = reinterpret_cast<const float*>(data_.data()) + offset;
    for (size_t i = 0; i < values.size(); ++i) values[i] = in[i * kPanel];
  } else {
    const uint16_t* in = reinterpret_cast<const uint16_t*>(data_.data()) + offset;
    for (size_t i = 0; i < values.size(); ++i) values[i] = Bf16ToFloat(in[i * kPanel]);
  }
}

void MatMul(const MatMulParams& params, const PackedMatrix& matrix, ThreadPool& pool) {
  const int32_t panels = NumPanels(matrix.n());
  const int32_t panel_tasks = (panels + kPanelsPerTask - 1) / kPanelsPerTask;
  for (int32_t first_row = 0; first_row < params.rows; first_row += kRowBlock) {
    const int32_t rows = std::min(kRowBlock, params.rows - first_row);
    pool.ParallelFor(panel_tasks, [&](int64_t task, int32_t) {
      const int32_t begin = static_cast<int32_t>(task) * kPanelsPerTask;
      for (int32_t p = begin; p < std::min(begin + kPanelsPerTask, panels); ++p) {
        HWY_DYNAMIC_DISPATCH(PanelProduct)(params, matrix, first_row, rows, p);
      }
    });
  }
}

}  // namespace treeline::cpu
#endif  // HWY_ONCE
