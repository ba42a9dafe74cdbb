// Every operation of a backend against kernels/reference, on the CPU and on a GPU: each type of
// weights and states, odd shapes. Each operation's tolerance stands beside it, relative to the
// largest value, and is shown to catch a fault: one element of the input changed.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/reference/attention.h"
#include "kernels/reference/ops.h"
#include "kernels/reference/vocabulary.h"
#include "tests/device_sequences.h"

namespace treeline {
namespace {

// A fault must stand out from rounding by this factor.
constexpr double kClear = 10;

// Attention is computed in fp32, but for a GPU's products of queries, weights and S where rings are
// bf16.
constexpr double kAttentionTolerance = 4e-6, kBf16AttentionTolerance = 1e-2;
// Of S and z: fp32 in either case.
constexpr double kSumsTolerance = 1e-5;

std::vector<float> Random(size_t n, std::mt19937& rng, float scale = 1.0f) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = scale * normal(rng);
  return values;
}

// What bf16 holds exactly, so that no rounding of activations or weights is in the way.
std::vector<float> RandomBf16(size_t n, std::mt19937& rng, float scale = 1.0f) {
  std::vector<float> values = Random(n, rng, scale);
  for (float& value : values) value = Bf16ToFloat(FloatToBf16(value));
  return values;
}

std::vector<float> WithFault(std::vector<float> values, size_t at, float change = 0.5f) {
  values[at] += change;
  return values;
}

class BackendEquivalence : public testing::TestWithParam<const char*> {
 protected:
  BackendEquivalence() : backend_(MakeBackend(GetParam())), rng_(17) {}
  void SetUp() override { ASSERT_NE(backend_, nullptr); }
  void TearDown() override {
    if (backend_ == nullptr) return;
    const Status status = backend_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
  }

  std::unique_ptr<Matrix> MakeMatrix(WeightType type, int32_t n, int32_t k,
                                     const std::vector<float>& values) {
    auto matrix = backend_->CreateMatrix(type, n, k, [&](int32_t row, std::span<float> to) {
      std::copy_n(values.begin() + int64_t{row} * k, k, to.begin());
    });
    EXPECT_TRUE(matrix.ok()) << matrix.status();
    return *std::move(matrix);
  }
  DeviceArray<float> Upload(const std::vector<float>& values) { return {*backend_, values}; }
  // Device memory that must be overwritten.
  DeviceArray<float> Poisoned(size_t n) {
    return Upload(std::vector<float>(n, std::numeric_limits<float>::quiet_NaN()));
  }

  double ToleranceOf(const AttentionLayer& layer) const {
    const bool on_gpu = GetParam() == std::string("cuda");
    return on_gpu && layer.state_type == StateType::kBF16 ? kBf16AttentionTolerance
                                                          : kAttentionTolerance;
  }

  // `fault`: of one value of x, which must show.
  void CheckMatMul(WeightType type, int32_t n, int32_t k, int32_t rows, bool accumulate,
                   double tolerance, float fault) {
    SCOPED_TRACE(fmt::format("type {}, [{}, {}] x [{}, {}]^T, accumulate {}", int(type), rows, k, n,
                             k, accumulate));
    const std::vector<float> weight = RandomBf16(n * k, rng_), x = RandomBf16(rows * k, rng_);
    const std::vector<float> before = Random(rows * n, rng_);
    std::vector<float> expected = before;
    reference::MatMul({x.data(), expected.data(), rows, accumulate}, weight.data(), n, k);
    const auto matrix = MakeMatrix(type, n, k, weight);
    const auto run = [&](const std::vector<float>& input) {
      const DeviceArray<float> device_x = Upload(input);
      const DeviceArray<float> y = accumulate ? Upload(before) : Poisoned(rows * n);
      backend_->MatMul({device_x.data(), y.data(), rows, accumulate}, *matrix);
      return y.Read();
    };
    EXPECT_LE(Error(run(x), expected), tolerance);
    EXPECT_GE(Error(run(WithFault(x, rows * k - 1, fault)), expected), kClear * tolerance);
  }

  void CheckGatedMatMul(WeightType type, int32_t n, int32_t k, int32_t rows, bool biased,
                        float weight_scale, double tolerance, float fault) {
    SCOPED_TRACE(fmt::format("type {}, {} rows of {}, biased {}", int(type), rows, k, biased));
    const std::vector<float> gate = RandomBf16(n * k, rng_, weight_scale),
                             x = RandomBf16(rows * k, rng_);
    const std::vector<float> up = RandomBf16(n * k, rng_, weight_scale);
    const std::vector<float> gate_bias = Random(n, rng_), up_bias = Random(n, rng_);
    const auto gate_matrix = MakeMatrix(type, n, k, gate), up_matrix = MakeMatrix(type, n, k, up);
    const DeviceArray<float> device_gate_bias = Upload(gate_bias), device_up_bias = Upload(up_bias);
    std::vector<float> expected(rows * n);
    GatedMatMulParams params;
    params.rows = rows;
    params.x = x.data();
    params.y = expected.data();
    params.gate_bias = biased ? gate_bias.data() : nullptr;
    params.up_bias = biased ? up_bias.data() : nullptr;
    reference::GatedMatMul(params, gate.data(), up.data(), n, k);
    const auto run = [&](const std::vector<float>& input) {
      const DeviceArray<float> device_x = Upload(input), y = Poisoned(rows * n);
      params.x = device_x.data();
      params.y = y.data();
      params.gate_bias = biased ? device_gate_bias.data() : nullptr;
      params.up_bias = biased ? device_up_bias.data() : nullptr;
      backend_->GatedMatMul(params, *gate_matrix, *up_matrix);
      return y.Read();
    };
    EXPECT_LE(Error(run(x), expected), tolerance);
    EXPECT_GE(Error(run(WithFault(x, 0, fault)), expected), kClear * tolerance);
  }

  std::unique_ptr<Backend> backend_;
  std::mt19937 rng_;
};

TEST_P(BackendEquivalence, Embed) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBF16}) {
    for (const int32_t k : {8, 576, 1000}) {
      const std::vector<float> table = RandomBf16(50 * k, rng_);
      const auto matrix = MakeMatrix(type, 50, k, table);
      const std::vector<int32_t> ids = {49, 0, 7, 7};
      const DeviceArray<float> y = Poisoned(ids.size() * k);
      backend_->Embed(*matrix, ids, y.data());
      std::vector<float> expected;
      for (const int32_t id : ids) {
        expected.insert(expected.end(), table.begin() + int64_t{id} * k,
                        table.begin() + int64_t{id + 1} * k);
      }
      EXPECT_EQ(y.Read(), expected);  // Rows are copied: no tolerance.
    }
  }
}

// Bug: on a GPU a state of 30 layers went to the prefix cache, and came back, in some 400 copies,
// one after the other.
TEST_P(BackendEquivalence, CopyPieces) {
  constexpr size_t kBytes = size_t{1} << 20;
  std::vector<float> values = Random(kBytes / sizeof(float), rng_), zeros(values.size());
  const DeviceArray<float> from = Upload(values), to = Upload(zeros);
  std::vector<CopyParams> pieces;
  std::vector<float> expected = zeros;
  std::uniform_int_distribution<size_t> size(0, 300), gap(0, 20);
  const auto bytes_of = [](auto* data) { return reinterpret_cast<std::byte*>(data); };
  // Aligned and unaligned ones, from elsewhere than where they go, some of them empty.
  for (size_t at = 0; at + 40000 < kBytes;) {
    const size_t unit = pieces.size() % 3 == 0 ? 1 : 16;
    const size_t bytes = (pieces.size() % 50 == 0 ? 2000 : size(rng_)) * unit;
    const size_t source = (at / 2) / unit * unit, target = (at + unit - 1) / unit * unit;
    pieces.push_back({bytes_of(to.data()) + target, bytes_of(from.data()) + source,
                      static_cast<int64_t>(bytes)});
    std::memcpy(bytes_of(expected.data()) + target, bytes_of(values.data()) + source, bytes);
    at = target + bytes + gap(rng_);
  }
  ASSERT_GT(pieces.size(), 200u);
  backend_->CopyPieces(pieces);
  const std::vector<float> copied = to.Read();
  // Floats in pieces may be no numbers, and those equal nothing.
  EXPECT_EQ(std::memcmp(copied.data(), expected.data(), kBytes), 0);
  backend_->CopyPieces({});
}

TEST_P(BackendEquivalence, MatMul) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBF16}) {
    for (const auto& [n, k] : {std::pair{1, 8}, {33, 24}, {576, 576}, {96, 1536}, {7, 17}}) {
      for (const int32_t rows : {1, 2, 3, 4, 5, 16, 23, 33, 64, 65, 128, 130}) {
        for (const bool accumulate : {false, true}) {
          CheckMatMul(type, n, k, rows, accumulate, 4e-6, 0.5f);
        }
      }
    }
  }
}

// Of which a GPU streams the weights: shapes that its tiles do not divide, some of them in parts.
// Tensor cores cut off what they add to a sum of thousands.
TEST_P(BackendEquivalence, MatMulOfLargeMatrices) {
  for (const auto& [n, k] : {std::pair{4100, 2056}, {2051, 4168}}) {
    for (const int32_t rows : {5, 17, 64}) {
      CheckMatMul(WeightType::kBF16, n, k, rows, rows == 17, 1.5e-5, 100.0f);
    }
  }
}

// Where weights are bf16, rows of x are rounded to it after the norm, or before it is complete.
TEST_P(BackendEquivalence, MatMulOfNormalisedRows) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBF16}) {
    const double tolerance = type == WeightType::kF32 ? 4e-6 : 4e-3;
    // 4 rows of 6144 in bf16 are all the shared memory that a kernel has without asking for it.
    for (const auto& [n, k] : {std::pair{40, 576}, {96, 4096}, {7, 24}, {96, 6144}}) {
      for (const int32_t rows : {1, 3, 9, 64, 70, 130}) {
        SCOPED_TRACE(fmt::format("type {}, [{}, {}] x [{}, {}]^T", int(type), rows, k, n, k));
        const std::vector<float> weight = RandomBf16(n * k, rng_);
        const std::vector<float> norm = Random(k, rng_);
        std::vector<float> x = Random(rows * k, rng_);
        for (int32_t i = 0; i < rows * k; ++i) x[i] *= 1 + i / k;  // Rows of different norms.
        const DeviceArray<float> device_norm = Upload(norm);
        std::vector<float> expected(rows * n);
        reference::MatMul({x.data(), expected.data(), rows, false, {norm.data(), 1e-5f}},
                          weight.data(), n, k);
        const auto matrix = MakeMatrix(type, n, k, weight);
        const auto run = [&](const std::vector<float>& input) {
          const DeviceArray<float> device_x = Upload(input), y = Poisoned(rows * n);
          backend_->MatMul({device_x.data(), y.data(), rows, false, {device_norm.data(), 1e-5f}},
                           *matrix);
          return y.Read();
        };
        EXPECT_LE(Error(run(x), expected), tolerance);
        EXPECT_GE(Error(run(WithFault(x, 0, 40.0f)), expected), kClear * tolerance);
      }
    }
  }
}

TEST_P(BackendEquivalence, GatedMatMul) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBF16}) {
    for (const auto& [n, k] : {std::pair{88, 72}, {88, 64}, {300, 576}}) {
      for (const int32_t rows : {1, 3, 19, 40}) {
        for (const bool biased : {false, true}) {
          CheckGatedMatMul(type, n, k, rows, biased, 0.2f, 3e-6, 0.5f);
        }
      }
    }
  }
}

TEST_P(BackendEquivalence, GatedMatMulOfLargeMatrices) {
  for (const int32_t rows : {6, 20, 50}) {
    CheckGatedMatMul(WeightType::kBF16, 3001, 2824, rows, rows == 20, 0.02f, 1.5e-5, 100.0f);
  }
}

TEST_P(BackendEquivalence, GatedMatMulOfNormalisedRows) {
  constexpr double kTolerance = 6e-3;  // Of bf16 activations.
  const int32_t n = 88, k = 576;
  for (const int32_t rows : {1, 19, 70}) {
    const std::vector<float> gate = RandomBf16(n * k, rng_, 0.05f),
                             up = RandomBf16(n * k, rng_, 0.05f), norm = Random(k, rng_);
    std::vector<float> x = Random(rows * k, rng_);
    for (int32_t i = 0; i < rows * k; ++i) x[i] *= 1 + i / k;
    const auto gate_matrix = MakeMatrix(WeightType::kBF16, n, k, gate),
               up_matrix = MakeMatrix(WeightType::kBF16, n, k, up);
    const DeviceArray<float> device_norm = Upload(norm);
    std::vector<float> expected(rows * n);
    GatedMatMulParams params;
    params.rows = rows;
    params.x = x.data();
    params.y = expected.data();
    params.norm = {norm.data(), 1e-5f};
    reference::GatedMatMul(params, gate.data(), up.data(), n, k);
    const auto run = [&](const std::vector<float>& input) {
      const DeviceArray<float> device_x = Upload(input), y = Poisoned(rows * n);
      params.x = device_x.data();
      params.y = y.data();
      params.norm.weight = device_norm.data();
      backend_->GatedMatMul(params, *gate_matrix, *up_matrix);
      return y.Read();
    };
    EXPECT_LE(Error(run(x), expected), kTolerance) << rows;
    EXPECT_GE(Error(run(WithFault(x, 0, 40.0f)), expected), kClear * kTolerance) << rows;
  }
}

TEST_P(BackendEquivalence, RmsNorm) {
  constexpr double kTolerance = 1e-6;
  for (const int32_t dim : {8, 576, 1001, 4096}) {
    const int32_t rows = 5;
    const std::vector<float> x = Random(rows * dim, rng_), weight = Random(dim, rng_);
    const DeviceArray<float> device_weight = Upload(weight);
    std::vector<float> expected(rows * dim);
    reference::RmsNorm({x.data(), weight.data(), expected.data(), rows, dim, 1e-5f});
    const auto run = [&](const std::vector<float>& input) {
      const DeviceArray<float> device_x = Upload(input), y = Poisoned(rows * dim);
      backend_->RmsNorm({device_x.data(), device_weight.data(), y.data(), rows, dim, 1e-5f});
      return y.Read();
    };
    EXPECT_LE(Error(run(x), expected), kTolerance) << dim;
    EXPECT_GE(Error(run(WithFault(x, dim)), expected), kClear * kTolerance) << dim;
  }
}

TEST_P(BackendEquivalence, RopeAnglesAndRopeQkv) {
  constexpr double kAnglesTolerance = 3e-7, kTolerance = 1e-6;
  for (const int32_t dim : {8, 12, 24, 64, 128}) {
    const std::vector<int32_t> positions = {0, 1, 17, 4095, 32768, 131071};
    const int32_t rows = static_cast<int32_t>(positions.size()), heads = 3, kv_heads = 2;
    std::vector<float> frequencies(dim / 2);
    for (int32_t i = 0; i < dim / 2; ++i) frequencies[i] = std::pow(1e4f, -2.0f * i / dim);
    std::vector<float> expected_angles(rows * dim);
    RopeAnglesParams angles{
        positions.data(), frequencies.data(), expected_angles.data(), rows, dim, 1.2f};
    reference::RopeAngles(angles);

    const DeviceArray<int32_t> device_positions(*backend_, positions);
    const DeviceArray<float> device_frequencies = Upload(frequencies);
    const DeviceArray<float> device_angles = Poisoned(rows * dim);
    angles.positions = device_positions.data();
    angles.inverse_frequencies = device_frequencies.data();
    angles.angles = device_angles.data();
    backend_->RopeAngles(angles);
    EXPECT_LE(Error(device_angles.Read(), expected_angles), kAnglesTolerance) << dim;
    const DeviceArray<int32_t> faulty_positions(*backend_, {0, 1, 17, 4096, 32768, 131071});
    const DeviceArray<float> faulty_angles = Poisoned(rows * dim);
    angles.positions = faulty_positions.data();
    angles.angles = faulty_angles.data();
    backend_->RopeAngles(angles);
    EXPECT_GE(Error(faulty_angles.Read(), expected_angles), kClear * kAnglesTolerance) << dim;

    for (const StateType type : {StateType::kF32, StateType::kBF16}) {
      const std::vector<float> x = Random(rows * (heads + 2 * kv_heads) * dim, rng_);
      std::vector<float> expected = x, expected_kv(rows * 2 * kv_heads * dim);
      reference::RopeQkv({expected.data(), expected_kv.data(), expected_angles.data(), rows, heads,
                          kv_heads, dim, type});
      const auto run = [&](const DeviceArray<float>& by) {
        const DeviceArray<float> device_x = Upload(x), kv = Poisoned(expected_kv.size());
        backend_->RopeQkv(
            {device_x.data(), kv.data(), by.data(), rows, heads, kv_heads, dim, type});
        return std::pair(device_x.Read(), kv.Read());
      };
      // A value between two bf16 may be rounded to either, by how it was rotated.
      const double kv_tolerance = type == StateType::kF32 ? kTolerance : 4e-3;
      const auto [q, kv] = run(device_angles);
      EXPECT_LE(Error(q, expected), kTolerance) << dim;
      EXPECT_LE(Error(kv, expected_kv), kv_tolerance) << dim;
      for (size_t i = 0; type == StateType::kBF16 && i < kv.size(); ++i) {
        ASSERT_EQ(kv[i], Bf16ToFloat(FloatToBf16(kv[i]))) << i;
      }
      const auto [faulty_q, faulty_kv] = run(faulty_angles);
      EXPECT_GE(Error(faulty_q, expected), kClear * kTolerance) << dim;
      EXPECT_GE(Error(faulty_kv, expected_kv), kClear * kv_tolerance) << dim;
    }
  }
}

TEST_P(BackendEquivalence, AddBias) {
  constexpr double kTolerance = 1e-7;
  for (const int32_t dim : {1, 24, 1000}) {
    const int32_t rows = 7;
    const std::vector<float> x = Random(rows * dim, rng_), bias = Random(dim, rng_);
    std::vector<float> expected = x;
    reference::AddBias({expected.data(), bias.data(), rows, dim});
    const auto run = [&](const std::vector<float>& by) {
      const DeviceArray<float> device_x = Upload(x), device_bias = Upload(by);
      backend_->AddBias({device_x.data(), device_bias.data(), rows, dim});
      return device_x.Read();
    };
    EXPECT_LE(Error(run(bias), expected), kTolerance) << dim;
    EXPECT_GE(Error(run(WithFault(bias, 0)), expected), kClear * kTolerance) << dim;
  }
}

TEST_P(BackendEquivalence, ResidualSilu) {
  constexpr double kTolerance = 2e-7;
  for (const int32_t dim : {1, 24, 1000}) {
    const int32_t rows = 7, heads = 3;
    const std::vector<float> x = Random(rows * dim, rng_), bias = Random(2 * heads * dim, rng_);
    const std::vector<float> gates = Random(2 * rows * heads * dim, rng_);
    for (const bool has_own_x : {false, true}) {
      std::vector<float> expected(rows * heads * dim);
      reference::ResidualSilu({has_own_x ? nullptr : x.data(), gates.data(), bias.data(),
                               expected.data(), rows, heads, dim});
      const auto run = [&](const std::vector<float>& by) {
        const DeviceArray<float> device_x = Upload(x), device_gates = Upload(gates);
        const DeviceArray<float> device_bias = Upload(by), y = Poisoned(rows * heads * dim);
        backend_->ResidualSilu({has_own_x ? nullptr : device_x.data(), device_gates.data(),
                                device_bias.data(), y.data(), rows, heads, dim});
        return y.Read();
      };
      EXPECT_LE(Error(run(bias), expected), kTolerance) << dim;
      EXPECT_GE(Error(run(WithFault(bias, 0)), expected), kClear * kTolerance) << dim;
      const int own = heads * dim;  // The first bias of the heads' own x.
      if (has_own_x) {
        EXPECT_GE(Error(run(WithFault(bias, own)), expected), kClear * kTolerance) << dim;
      }
    }
  }
}

// Rows of n logits: with equals and a few -infinity, in order, the best at equal distances, all
// equal, few or none above -infinity, NaN, +infinity.
std::vector<std::vector<float>> RowsOfLogits(int32_t n, std::mt19937& rng) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<std::vector<float>> rows;
  const auto random = [&]() -> std::vector<float>& {
    rows.push_back(Random(n, rng));
    for (float& logit : rows.back()) logit = std::round(400 * logit) / 40;
    return rows.back();
  };
  const auto by_id = [&](auto&& logit) {
    rows.emplace_back(n);
    for (int32_t id = 0; id < n; ++id) rows.back()[id] = logit(id);
  };
  std::vector<float>& some_unlikely = random();
  for (int32_t id = n / 2; id < n; id += n / 5 + 1) some_unlikely[id] = -kInfinity;
  by_id([&](int32_t id) { return 1e-3f * (id - n); });
  by_id([&](int32_t id) { return -1e-3f * id; });
  for (const int32_t distance : {32, 512, 8192}) {
    by_id([&](int32_t id) { return (id % distance == 5 ? 10.0f : 0.0f) + 1e-5f * id; });
  }
  by_id([](int32_t id) { return id % 3 == 0 ? 0.0f : -0.0f; });
  by_id([&](int32_t id) { return id % (n / 20 + 1) == 0 ? -1e-2f * id : -kInfinity; });
  by_id([&](int32_t id) { return id == n - 1 ? -3e38f : -kInfinity; });
  by_id([](int32_t) { return -kInfinity; });
  random()[n / 3] = std::numeric_limits<float>::quiet_NaN();
  random()[n - 1] = -std::numeric_limits<float>::quiet_NaN();
  random()[n / 3] = kInfinity;
  return rows;
}

TEST_P(BackendEquivalence, TopTokens) {
  constexpr double kTolerance = 2e-5;
  for (const int32_t n : {1, 7, 31, 1000, 9001, 49152, 65537, 128256}) {
    const std::vector<std::vector<float>> rows_of_logits = RowsOfLogits(n, rng_);
    std::vector<float> logits;
    for (const auto& row : rows_of_logits) logits.insert(logits.end(), row.begin(), row.end());
    const int32_t rows = static_cast<int32_t>(rows_of_logits.size());
    const DeviceArray<float> device_logits = Upload(logits);
    for (const int32_t k : {1, 10, kMaxTopTokens}) {
      std::vector<int32_t> expected_ids(rows * k);
      std::vector<float> expected(rows * k);
      reference::TopTokens({logits.data(), expected_ids.data(), expected.data(), rows, n, k});
      const DeviceArray<float> logprobs = Poisoned(rows * k);
      const DeviceArray<int32_t> ids(*backend_, std::vector<int32_t>(rows * k, -7));
      backend_->TopTokens({device_logits.data(), ids.data(), logprobs.data(), rows, n, k});
      const std::vector<int32_t> actual_ids = ids.Read();
      const std::vector<float> actual = logprobs.Read();
      for (int32_t i = 0; i < rows * k; ++i) {
        SCOPED_TRACE(fmt::format("n {}, k {}, row {}, rank {}", n, k, i / k, i % k));
        EXPECT_EQ(actual_ids[i], expected_ids[i]);
        if (std::isfinite(expected[i])) {
          EXPECT_NEAR(actual[i], expected[i], kTolerance);
        } else {
          EXPECT_EQ(std::isnan(actual[i]), std::isnan(expected[i]));
          EXPECT_FALSE(std::isfinite(actual[i]));
        }
      }
    }
  }
}

// -- Attention.

// A sequence in chunks beside another one, then a draft tree and the commit of one of its paths,
// then more chunks: outputs and S against the definition.
class AttentionRun {
 public:
  AttentionRun(Backend& backend, const RandomLayer& random, std::mt19937& rng)
      : layer_(random.layer), sequences_(backend, random, 2), rng_(rng) {}

  // Chunks of both sequences in one step.
  void Chunks(int32_t first, int32_t second) {
    const int32_t counts[] = {first, second};
    std::vector<TreeRows> trees;
    for (int32_t i = 0; i < 2; ++i) {
      if (counts[i] == 0) continue;
      trees.push_back({i, Rows(layer_, counts[i], rng_), {}});
      for (int32_t row = 0; row < counts[i]; ++row) {
        history_[i].Append(layer_, trees.back().rows, row);
      }
    }
    const std::vector<float> out = sequences_.Step(trees);
    size_t at = 0;
    for (int32_t i = 0; i < 2; ++i) {
      const Rows& rows = history_[i];
      const int32_t n = sequences_.length(i);
      const std::vector<double> expected =
          reference::Attention(layer_, n, rows.q.data(), rows.k.data(), rows.v.data());
      const size_t size = size_t(counts[i]) * layer_.heads * layer_.head_dim;
      actual_.insert(actual_.end(), out.begin() + at, out.begin() + at + size);
      expected_.insert(expected_.end(), expected.end() - size, expected.end());
      at += size;
    }
  }

  // A tree on sequence 0 while sequence 1 decodes; the path to a node is committed.
  void Tree() {
    const std::vector<int32_t> parents = RandomTree(rng_);
    const int32_t nodes = static_cast<int32_t>(parents.size());
    const Rows draft(layer_, nodes, rng_), next(layer_, 1, rng_);
    history_[1].Append(layer_, next, 0);
    const std::vector<float> out = sequences_.Step({{1, next, {}}, {0, draft, parents}});
    const int32_t row_size = layer_.heads * layer_.head_dim;
    for (int32_t node = nodes - 1; node >= 0; node -= 3) {
      Rows rows = history_[0];
      const std::vector<int32_t> path = PathTo(parents, node);
      for (const int32_t i : path) rows.Append(layer_, draft, i);
      const std::vector<double> expected =
          reference::LastRow(layer_, sequences_.length(0) + static_cast<int32_t>(path.size()),
                             rows.q.data(), rows.k.data(), rows.v.data());
      actual_.insert(actual_.end(), out.begin() + (node + 1) * row_size,
                     out.begin() + (node + 2) * row_size);
      expected_.insert(expected_.end(), expected.begin(), expected.end());
    }
    std::vector<int32_t> accepted =
        PathTo(parents, std::uniform_int_distribution<int32_t>(0, nodes - 1)(rng_));
    for (int32_t& node : accepted) {
      history_[0].Append(layer_, draft, node);
      ++node;  // Sequence 1's row comes first.
    }
    sequences_.Commit({{0, accepted}});
  }

  // A tree on each; paths of both are committed at once. What follows tells whether they were.
  void TwoTrees() {
    std::vector<TreeRows> trees;
    std::map<int32_t, std::vector<int32_t>> accepted;
    int32_t first_row = 0;
    for (int32_t i = 0; i < 2; ++i) {
      const std::vector<int32_t> parents = RandomTree(rng_);
      const auto nodes = static_cast<int32_t>(parents.size());
      trees.push_back({i, Rows(layer_, nodes, rng_), parents});
      const int32_t last = std::uniform_int_distribution<int32_t>(0, nodes - 1)(rng_);
      for (const int32_t node : PathTo(parents, last)) {
        history_[i].Append(layer_, trees[i].rows, node);
        accepted[i].push_back(first_row + node);
      }
      first_row += nodes;
    }
    sequences_.Step(trees);
    sequences_.Commit(accepted);
  }

  // Changes one element of sequence 0's newest value row in what the definition sees.
  void PlantFault(float change) { history_[0].v.back() += change; }

  double OutputError() const { return Error(actual_, expected_); }

  // Of S and z; 0 where nothing is folded.
  double SumsError() const {
    double error = 0;
    for (int32_t i = 0; i < 2; ++i) {
      const int32_t n = sequences_.length(i);
      if (!layer_.form.has_linear() || n / layer_.form.group_size < layer_.form.lag()) continue;
      const auto folded = reference::Fold(layer_, n, history_[i].k.data(), history_[i].v.data());
      std::vector<double> expected = folded.s;
      if (layer_.form.has_normaliser()) {
        expected.insert(expected.end(), folded.z.begin(), folded.z.end());
      }
      error = std::max(error, Error(sequences_.Sums(i), expected));
    }
    return error;
  }

 private:
  const AttentionLayer& layer_;
  DeviceSequences sequences_;
  std::mt19937& rng_;
  Rows history_[2];
  std::vector<float> actual_;
  std::vector<double> expected_;
};

void CheckForm(Backend& backend, const RandomLayer& random, std::mt19937& rng,
               double output_tolerance) {
  SCOPED_TRACE(Describe(random.layer.form) +
               fmt::format(", {} heads of {} on {}, state {}", random.layer.heads,
                           random.layer.head_dim, random.layer.kv_heads,
                           random.layer.state_type == StateType::kF32 ? "fp32" : "bf16"));
  AttentionRun run(backend, random, rng);
  const int32_t g = std::max(1, random.layer.form.group_size);
  run.Chunks(3, 2 * g + 5);
  run.Chunks(2 * g + 7, 1);
  run.Tree();
  run.Chunks(1, g);
  run.TwoTrees();
  run.Chunks(2, 1);
  run.Chunks(1, 0);
  run.Tree();
  run.Chunks(1, 1);
  EXPECT_LE(run.OutputError(), output_tolerance);
  EXPECT_LE(run.SumsError(), kSumsTolerance);
}

TEST_P(BackendEquivalence, AttentionOfRandomForms) {
  for (const int32_t g : {1, 3, 8, 64}) {
    for (const int32_t w : {1, g - 1, g, g + 1, 2 * g}) {
      for (int trial = 0; trial < (w < 1 ? 0 : 3); ++trial) {
        AttentionForm form = RandomForm(g, w, rng_);
        if (form.feature_map == FeatureMap::kHedgehog) form.feature_size = Pick(rng_, {0, 6, 32});
        RandomLayer random(form, 0, rng_, Pick(rng_, {8, 24, 64}));
        if (trial == 2) random.layer.state_type = StateType::kBF16;
        CheckForm(*backend_, random, rng_, ToleranceOf(random.layer));
      }
    }
  }
}

// Layers of a hybrid model: few features, and a window without S.
AttentionForm FewFeaturesForm() {
  AttentionForm form = GroupWindowForm(64);
  form.feature_size = 32;
  return form;
}
AttentionForm WindowOnlyForm() {
  AttentionForm form = GroupWindowForm(64);
  form.feature_map = FeatureMap::kNone;
  form.denominator = Denominator::kNone;
  form.decay = false;
  return form;
}

TEST_P(BackendEquivalence, AttentionOfTheFormsThatAreServed) {
  for (const int32_t dim : {64, 128}) {
    for (const StateType type : {StateType::kF32, StateType::kBF16}) {
      for (const AttentionForm& form : {ShippedForm(128), GroupWindowForm(64), ReleasedForm(64),
                                        FewFeaturesForm(), WindowOnlyForm()}) {
        RandomLayer random(form, 0, rng_, dim);
        random.layer.state_type = type;
        CheckForm(*backend_, random, rng_, ToleranceOf(random.layer));
      }
    }
  }
}

// As many rows at once as keep a whole GPU busy.
TEST_P(BackendEquivalence, AttentionOfALongChunk) {
  constexpr int32_t kRows = 3000;
  for (const AttentionForm& form : {ShippedForm(128), GroupWindowForm(64), ReleasedForm(64)}) {
    RandomLayer random(form, 0, rng_, 64);
    AttentionLayer& layer = random.layer;
    layer.state_type = StateType::kBF16;
    const Rows rows(layer, kRows, rng_);
    DeviceSequences sequences(*backend_, random, 1);
    const std::vector<float> out = sequences.Step({{0, rows, {}}});
    const int32_t row_size = layer.heads * layer.head_dim;
    std::vector<float> actual;
    std::vector<double> expected;
    for (int32_t row = 11; row < kRows; row += 271) {
      const std::vector<double> last =
          reference::LastRow(layer, row + 1, rows.q.data(), rows.k.data(), rows.v.data());
      expected.insert(expected.end(), last.begin(), last.end());
      actual.insert(actual.end(), out.begin() + row * row_size, out.begin() + (row + 1) * row_size);
    }
    EXPECT_LE(Error(actual, expected), ToleranceOf(layer)) << Describe(form);
  }
}

// A window that several blocks of a GPU's threads share the work of.
TEST_P(BackendEquivalence, AttentionOfAWideWindow) {
  for (AttentionForm form : {FewFeaturesForm(), ReleasedForm(64)}) {
    form.window_size = 16 * form.group_size;
    RandomLayer random(form, 0, rng_, 64);
    random.layer.state_type = StateType::kBF16;
    AttentionRun run(*backend_, random, rng_);
    run.Chunks(1150, 3);
    run.Tree();
    run.Chunks(1, 1);
    EXPECT_LE(run.OutputError(), ToleranceOf(random.layer)) << Describe(form);
  }
}

TEST_P(BackendEquivalence, SoftmaxAttention) {
  for (const StateType type : {StateType::kF32, StateType::kBF16}) {
    RandomLayer random(AttentionForm(), 600, rng_, 64);
    random.layer.state_type = type;
    AttentionRun run(*backend_, random, rng_);
    run.Chunks(260, 3);
    run.Tree();
    run.Chunks(1, 1);
    EXPECT_LE(run.OutputError(), kAttentionTolerance);
  }
}

TEST_P(BackendEquivalence, AttentionToleranceCatchesOneElement) {
  for (const StateType type : {StateType::kF32, StateType::kBF16}) {
    RandomLayer random(ShippedForm(16), 0, rng_, 64);
    random.layer.state_type = type;
    const double tolerance = ToleranceOf(random.layer);
    AttentionRun run(*backend_, random, rng_);
    run.Chunks(90, 0);
    EXPECT_LE(run.OutputError(), tolerance);
    EXPECT_LE(run.SumsError(), kSumsTolerance);
    // The row weighs about a tenth in the next one's output.
    run.PlantFault(1000 * static_cast<float>(tolerance));
    run.Chunks(1, 0);
    EXPECT_GE(run.OutputError(), kClear * tolerance);
    run.Chunks(50, 0);  // The element is folded.
    EXPECT_GE(run.SumsError(), kClear * kSumsTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendEquivalence, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace treeline
