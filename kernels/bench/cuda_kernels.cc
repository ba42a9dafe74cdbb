// Speed of the CUDA kernels beside what the card can do, measured in the same run: GB/s of a copy
// and FLOP/s of a large bf16 product. Random data, warm-up, the median of several batches of calls;
// times include what the host does for each call.
//
//   cuda_kernels [PART]    only the rows whose name holds PART, and no ceilings: for profilers
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/token_drawer.h"
#include "kernels/cuda/vocabulary.h"

namespace treeline::cuda {
namespace {

constexpr int32_t kHeads = 32, kHeadDim = 128;

class Bench {
 public:
  Bench(Stream& stream, DenseProducts& products, std::string part)
      : stream_(stream),
        products_(products),
        attention_(stream),
        drawer_(stream),
        part_(std::move(part)) {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    std::vector<float> floats(kBlockBytes / sizeof(float));
    for (float& value : floats) value = 0.1f * normal(rng);
    // bf16: the upper halves of such floats.
    std::vector<uint16_t> bf16(kBlockBytes / sizeof(uint16_t));
    for (size_t i = 0; i < bf16.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &floats[i * 5 % floats.size()], sizeof bits);
      bf16[i] = static_cast<uint16_t>(bits >> 16);
    }
    random_floats_ = stream_.Allocate(kBlockBytes);
    random_bf16_ = stream_.Allocate(kBlockBytes);
    stream_.CopyToDevice(random_floats_, floats.data(), kBlockBytes);
    stream_.CopyToDevice(random_bf16_, bf16.data(), kBlockBytes);
  }

  void Run() {
    if (part_.empty()) MeasureCeilings();
    fmt::print("\n{:<58}{:>10}{:>10}{:>10}\n", "products of bf16 weights", "us", "GB/s", "TFLOP/s");
    for (const auto& [n, k] :
         {std::pair{12288, 4096}, {4096, 4096}, {4096, 11008}, {3072, 576}, {576, 1536}}) {
      for (const int32_t rows : {1, 4, 16, 64, 256, 2048}) Product(rows, n, k);
    }
    fmt::print("\n{:<58}{:>10}{:>10}\n", "attention of a layer, 32 heads of 128", "us", "GB/s");
    for (const bool shipped : {true, false}) {
      for (const StateType type : {StateType::kBF16, StateType::kF32}) {
        for (const int32_t batch : {1, 16, 64, 256}) Attend(shipped, type, batch, 1);
        for (const int32_t batch : {1, 8, 64}) Attend(shipped, type, batch, -64);
        for (const int32_t tokens : {512, 2048, 8192}) Attend(shipped, type, 1, tokens);
      }
    }
    fmt::print("\n{:<58}{:>10}{:>10}\n", "a token from each row of logits", "us", "GB/s");
    for (const int32_t n : {49152, 128256}) {
      for (const int32_t rows : {1, 64, 256}) {
        for (const float top_p : {1.0f, 0.95f}) Draw(rows, n, top_p);
      }
    }
    fmt::print("\n{:<58}{:>10}{:>10}\n", "the best tokens of each row of logits", "us", "GB/s");
    for (const auto& [rows, n] : {std::pair{1, 49152}, {4, 49152}, {64, 49152}, {4, 128256}}) {
      Top(rows, n, kMaxTopTokens);
    }
    const std::string error = stream_.Synchronize();
    if (!error.empty()) fmt::print("failed: {}\n", error);
  }

 private:
  // Microseconds of a call: the median of batches of calls, each at least 20 ms.
  double Time(const std::function<void()>& call) {
    using Clock = std::chrono::steady_clock;
    const auto time = [&](int calls) {
      stream_.Synchronize();
      const auto start = Clock::now();
      for (int i = 0; i < calls; ++i) call();
      const std::string error = stream_.Synchronize();
      if (!error.empty()) fmt::print("failed: {}\n", error);
      return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / calls;
    };
    time(2);
    const int calls = static_cast<int>(std::clamp(2e4 / time(3), 3.0, 1000.0));
    std::vector<double> times;
    for (int i = 0; i < 5; ++i) times.push_back(time(calls));
    std::nth_element(times.begin(), times.begin() + 2, times.end());
    return times[2];
  }

  // `bytes` filled with the values of a block, which stay allocated until the process ends.
  void* Filled(size_t bytes, const void* block) {
    auto* data = static_cast<std::byte*>(stream_.Allocate(bytes));
    if (data == nullptr) stream_.Fail("out of memory");
    for (size_t at = 0; at < bytes; at += kBlockBytes) {
      stream_.Copy(data + at, block, std::min(kBlockBytes, bytes - at));
    }
    return data;
  }
  void* RandomMemory(size_t bytes) { return Filled(bytes, random_floats_); }
  float* RandomFloats(size_t count) { return static_cast<float*>(RandomMemory(count * 4)); }

  void MeasureCeilings() {
    constexpr size_t kBytes = size_t{2} << 30;
    void* from = RandomMemory(kBytes);
    void* to = RandomMemory(kBytes);
    const double copy = Time([&] { stream_.Copy(to, from, kBytes); });
    fmt::print("copy: {:.0f} GB/s read and written\n", 2e-3 * kBytes / copy);
    constexpr int32_t kSize = 8192;
    const DeviceMatrix w{WeightType::kBF16, kSize, kSize, Bf16Matrix(kSize, kSize)};
    const MatMulParams params{RandomFloats(size_t{kSize} * kSize),
                              RandomFloats(size_t{kSize} * kSize), kSize, false};
    const double product = Time([&] { products_.MatMul(params, w); });
    fmt::print("product of 8192^3 in bf16, its fp32 input rounded: {:.0f} TFLOP/s\n",
               2e-6 * kSize * kSize * kSize / product);
    stream_.Free(from);
    stream_.Free(to);
  }

  const void* Bf16Matrix(int32_t n, int32_t k) {
    return Filled(size_t(n) * k * sizeof(uint16_t), random_bf16_);
  }

  bool Wanted(const std::string& name) const { return name.find(part_) != std::string::npos; }

  void Product(int32_t rows, int32_t n, int32_t k) {
    const std::string name = fmt::format("[{}, {}] x [{}, {}]^T", rows, k, n, k);
    if (!Wanted(name)) return;
    // Several matrices, so that none stays in the cache.
    const size_t bytes = size_t(n) * k * 2;
    const int count = static_cast<int>((size_t{256} << 20) / bytes + 1);
    std::vector<DeviceMatrix> matrices;
    for (int i = 0; i < count; ++i) {
      matrices.push_back({WeightType::kBF16, n, k, Bf16Matrix(n, k)});
    }
    const MatMulParams params{RandomFloats(size_t(rows) * k), RandomFloats(size_t(rows) * n), rows,
                              false};
    int next = 0;
    const double us = Time([&] { products_.MatMul(params, matrices[next++ % count]); });
    const double moved = static_cast<double>(bytes) + 4.0 * rows * (n + k);
    fmt::print("{:<58}{:>10.1f}{:>10.0f}{:>10.1f}\n", name, us, 1e-3 * moved / us,
               2e-6 * rows * n * k / us);
    for (const DeviceMatrix& matrix : matrices) stream_.Free(const_cast<void*>(matrix.data));
  }

  // `tokens` of each sequence in a step; negative: a draft tree of so many.
  void Attend(bool shipped, StateType type, int32_t batch, int32_t tokens) {
    const int32_t nodes = std::abs(tokens);
    const std::string name =
        fmt::format("{}, {} state: {}", shipped ? "hedgehog, g 128, w 256" : "released, g 64",
                    type == StateType::kF32 ? "fp32" : "bf16",
                    tokens == 1  ? fmt::format("decode, {} sequences", batch)
                    : tokens < 0 ? fmt::format("verify, {} trees of {}", batch, nodes)
                                 : fmt::format("prefill, {} tokens", nodes));
    if (!Wanted(name)) return;
    AttentionLayer layer;
    AttentionForm& form = layer.form;
    form.conv_kernel = 63;
    if (shipped) {
      form.group_size = 128;
      form.window_size = 256;
      form.sinks = 4;
      form.decay = true;
      form.feature_map = FeatureMap::kHedgehog;
      form.denominator = Denominator::kJoint;
    } else {
      form.group_size = form.window_size = 64;
      form.local = Local::kRelu2;
      form.feature_map = FeatureMap::kIdentity;
      form.qk_norm = QkNorm::kL2;
    }
    layer.heads = layer.kv_heads = kHeads;
    layer.head_dim = kHeadDim;
    layer.k_ring_rows = form.k_ring_rows(0);
    layer.v_ring_rows = form.v_ring_rows(0);
    layer.state_type = type;
    const size_t d2 = kHeadDim * kHeadDim;
    std::vector<float*> memory;
    const auto floats = [&](size_t count) {
      memory.push_back(RandomFloats(count));
      return memory.back();
    };
    layer.linear_factor = floats(kHeads);
    layer.decay = floats(kHeads);
    layer.feature_map_q = floats(kHeads * d2);
    layer.feature_map_k = floats(kHeads * d2);
    layer.conv_taps = floats(kHeads * form.conv_taps());

    const int32_t m = layer.feature_dim();
    const size_t row = kHeadDim * (type == StateType::kF32 ? 4 : 2);
    // Groups are half full.
    const int32_t length = 100 * form.group_size + form.group_size / 2;
    std::vector<int32_t> parents(nodes);
    for (int32_t i = 0; i < nodes; ++i) parents[i] = tokens < 0 ? (i - 1) / 2 : i - 1;
    parents[0] = -1;
    std::vector<AttentionTree> trees(batch);
    // A state's parts one behind the other, as they lie in a slot.
    const size_t s_size = kHeads * size_t(m) * kHeadDim, z_size = kHeads * size_t(m);
    const auto rows_size = [&](int32_t count) { return kHeads * size_t(count) * row / 4; };
    const size_t sinks_size = rows_size(form.sinks), ring_size = rows_size(layer.k_ring_rows);
    const size_t state_size = s_size + z_size + 2 * sinks_size + 2 * ring_size;
    float* states = floats(batch * state_size);
    for (int32_t i = 0; i < batch; ++i) {
      float* at = states + i * state_size;
      const auto take = [&](size_t size) { return std::exchange(at, at + size); };
      LayerState& state = trees[i].state;
      state.s = take(s_size);
      state.z = take(z_size);
      state.sink_k = take(sinks_size);
      state.sink_v = take(sinks_size);
      state.ring_k = take(ring_size);
      state.ring_v = take(ring_size);
      trees[i].length = length;
      trees[i].first_row = i * nodes;
      trees[i].num_rows = nodes;
      trees[i].parents = parents.data();
      trees[i].commit = tokens > 0;
    }
    AttentionParams params;
    params.layer = &layer;
    params.q_stride = params.kv_stride = 3 * kHeads * kHeadDim;
    params.q = floats(size_t(batch) * nodes * params.q_stride);
    params.k = params.q + kHeads * kHeadDim;
    params.v = params.k + kHeads * kHeadDim;
    params.out = floats(size_t(batch) * nodes * kHeads * kHeadDim);
    params.trees = trees.data();
    params.num_trees = batch;
    const double us = Time([&] { attention_.Attend(params); });
    // S and z once, the live ring rows, the rows of the step in and out.
    const double ring_rows = form.window_size - form.group_size / 2 + form.sinks;
    const double state_bytes = kHeads * (4.0 * m * (kHeadDim + 1) + 2 * ring_rows * row);
    const double bytes = batch * (state_bytes + nodes * 4.0 * 4 * kHeads * kHeadDim);
    fmt::print("{:<58}{:>10.1f}{:>10.0f}\n", name, us, 1e-3 * bytes / us);
    for (float* data : memory) stream_.Free(data);
  }

  void Draw(int32_t rows, int32_t n, float top_p) {
    const std::string name = fmt::format("draw, [{}, {}], {}", rows, n,
                                         top_p < 1 ? fmt::format("top_p {}", top_p) : "no filter");
    if (!Wanted(name)) return;
    float* logits = RandomFloats(size_t(rows) * n);
    auto* tokens = static_cast<DrawnToken*>(stream_.Allocate(rows * sizeof(DrawnToken)));
    std::vector<TokenDraw> draws(rows);
    for (int32_t i = 0; i < rows; ++i) {
      draws[i].temperature = 0.03f;  // Peaked as a trained model's rows are.
      draws[i].top_p = top_p;
      draws[i].uniform = (i + 0.5) / rows;
    }
    const DrawTokensParams params{logits, draws.data(), tokens, rows, n};
    const double us = Time([&] { drawer_.Draw(params); });
    fmt::print("{:<58}{:>10.1f}{:>10.0f}\n", name, us, 4e-3 * rows * n / us);
    stream_.Free(logits);
    stream_.Free(tokens);
  }

  void Top(int32_t rows, int32_t n, int32_t k) {
    const std::string name = fmt::format("top {}, [{}, {}]", k, rows, n);
    if (!Wanted(name)) return;
    float* logits = RandomFloats(size_t(rows) * n);
    auto* ids = static_cast<int32_t*>(stream_.Allocate(rows * k * sizeof(int32_t)));
    auto* logprobs = static_cast<float*>(stream_.Allocate(rows * k * sizeof(float)));
    const double us = Time([&] { TopTokens({logits, ids, logprobs, rows, n, k}, stream_); });
    fmt::print("{:<58}{:>10.1f}{:>10.0f}\n", name, us, 4e-3 * rows * n / us);
    stream_.Free(logits);
    stream_.Free(ids);
    stream_.Free(logprobs);
  }

  Stream& stream_;
  DenseProducts& products_;
  ForestAttention attention_;
  TokenDrawer drawer_;
  static constexpr size_t kBlockBytes = size_t{64} << 20;
  const std::string part_;
  void* random_floats_ = nullptr;  // [kBlockBytes] on the GPU, as is
  void* random_bf16_ = nullptr;    // this.
};

int Main(const std::string& part) {
  const DeviceList list = ListDevices();
  std::string error = list.error;
  const std::shared_ptr<Stream> stream = error.empty() ? Stream::Open(0, error) : nullptr;
  const auto products = stream == nullptr ? nullptr : DenseProducts::Create(*stream, error);
  if (products == nullptr) {
    fmt::print(stderr, "{}\n", error);
    return 1;
  }
  fmt::print("{}\n", list.devices[0].name);
  Bench(*stream, *products, part).Run();
  return 0;
}

}  // namespace
}  // namespace treeline::cuda

int main(int argc, char** argv) { return treeline::cuda::Main(argc > 1 ? argv[1] : ""); }
