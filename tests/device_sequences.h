// Attention of several sequences on a backend, by hand: states, trees, commits. What tests of
// backends share.
#ifndef TREELINE_TESTS_DEVICE_SEQUENCES_H_
#define TREELINE_TESTS_DEVICE_SEQUENCES_H_

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cuda_backend.h"
#include "engine/state/state_layout.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/split_float.h"
#include "tests/attention_cases.h"

namespace treeline {

// "cpu" or "cuda". The CPU's with products that take activations as they are.
inline std::unique_ptr<Backend> MakeBackend(const std::string& name) {
  auto backend = name == "cuda" ? CreateCudaBackend({.threads = 2})
                                : CreateCpuBackend({.threads = 2, .matmul_kernel = "fp32"});
  if (!backend.ok()) {
    ADD_FAILURE() << backend.status();
    return nullptr;
  }
  return *std::move(backend);
}

// Values in device memory.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(Backend& backend, const std::vector<T>& values)
      : backend_(&backend),
        size_(values.size()),
        buffer_(backend.Allocate(values.size() * sizeof(T)).value()) {
    backend.CopyToDevice(data(), values.data(), values.size() * sizeof(T));
  }
  T* data() const { return static_cast<T*>(buffer_.get()); }
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    backend_->CopyToHost(values.data(), data(), size_ * sizeof(T));
    return values;
  }

 private:
  Backend* backend_ = nullptr;
  size_t size_ = 0;
  Buffer buffer_;
};

// A layer whose parameters lie on a backend.
class DeviceLayer {
 public:
  DeviceLayer(Backend& backend, const RandomLayer& random) : layer_(random.layer) {
    const auto upload = [&](const std::vector<float>& values, const float** place) {
      if (values.empty()) return;
      arrays_.emplace_back(backend, values);
      *place = arrays_.back().data();
    };
    upload(random.linear_factor, &layer_.linear_factor);
    upload(random.decay, &layer_.decay);
    upload(random.map_q, &layer_.feature_map_q);
    upload(random.map_k, &layer_.feature_map_k);
    upload(random.taps, &layer_.conv_taps);
  }
  const AttentionLayer& layer() const { return layer_; }

 private:
  AttentionLayer layer_;
  std::vector<DeviceArray<float>> arrays_;
};

// One tree of a step.
struct TreeRows {
  int32_t sequence = 0;
  Rows rows;
  std::vector<int32_t> parents;  // Empty: a chain, which is committed.
};

// States of some sequences on a backend. Their memory starts as NaN, so that reading what was
// never written shows.
class DeviceSequences {
 public:
  DeviceSequences(Backend& backend, const RandomLayer& random, int32_t count)
      : backend_(backend),
        splits_s_(!backend.Describe().starts_with("CPU") && cuda::TakesTensorCores(random.layer)),
        device_layer_(backend, random),
        layout_({random.layer}),
        lengths_(count),
        memory_(backend, std::vector<float>(layout_.bytes() / sizeof(float) * count,
                                            std::numeric_limits<float>::quiet_NaN())) {}

  const AttentionLayer& layer() const { return device_layer_.layer(); }
  int32_t length(int32_t sequence) const { return lengths_[sequence]; }
  LayerState State(int32_t sequence) const {
    return layout_.At(reinterpret_cast<std::byte*>(memory_.data()) + layout_.bytes() * sequence, 0);
  }

  // Attends to all trees in one step, as a model does: q, k and v of a row lie side by side.
  // Returns [rows, heads, head_dim].
  std::vector<float> Step(const std::vector<TreeRows>& trees) {
    const int32_t dim = layer().head_dim, q_size = layer().heads * dim;
    const int32_t kv_size = layer().kv_heads * dim, stride = q_size + 2 * kv_size;
    std::vector<float> packed;
    std::vector<AttentionTree> attention_trees;
    std::vector<std::vector<int32_t>> parents;
    int32_t num_rows = 0;
    for (const TreeRows& tree : trees) {
      const int32_t rows = static_cast<int32_t>(tree.rows.q.size()) / q_size;
      const auto append = [&](const std::vector<float>& values, int32_t row, int32_t size) {
        packed.insert(packed.end(), values.begin() + int64_t{row} * size,
                      values.begin() + int64_t{row + 1} * size);
      };
      parents.push_back(tree.parents);
      for (int32_t row = 0; row < rows; ++row) {
        append(tree.rows.q, row, q_size);
        append(tree.rows.k, row, kv_size);
        append(tree.rows.v, row, kv_size);
        if (tree.parents.empty()) parents.back().push_back(row - 1);
      }
      AttentionTree attention;
      attention.state = State(tree.sequence);
      attention.length = lengths_[tree.sequence];
      attention.first_row = num_rows;
      attention.num_rows = rows;
      attention.commit = tree.parents.empty();
      attention_trees.push_back(attention);
      num_rows += rows;
    }
    for (size_t i = 0; i < trees.size(); ++i) attention_trees[i].parents = parents[i].data();
    rows_ = DeviceArray<float>(backend_, packed);
    const DeviceArray<float> out(
        backend_,
        std::vector<float>(size_t(num_rows) * q_size, std::numeric_limits<float>::quiet_NaN()));
    AttentionParams params;
    params.layer = &layer();
    params.q = rows_.data();
    params.k = params.q + q_size;
    params.v = params.k + kv_size;
    params.out = out.data();
    params.q_stride = params.kv_stride = stride;
    params.trees = attention_trees.data();
    params.num_trees = static_cast<int32_t>(attention_trees.size());
    backend_.Attention(params);
    const Status status = backend_.Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    for (const AttentionTree& tree : attention_trees) {
      const int32_t sequence = trees[&tree - attention_trees.data()].sequence;
      if (tree.commit) lengths_[sequence] += tree.num_rows;
    }
    return out.Read();
  }

  // Commits rows of the last step, counted over all its trees, to each of these sequences.
  void Commit(const std::map<int32_t, std::vector<int32_t>>& rows_of) {
    const int32_t dim = layer().head_dim, q_size = layer().heads * dim;
    std::vector<CommitTree> trees;
    for (const auto& [sequence, rows] : rows_of) {
      CommitTree& tree = trees.emplace_back();
      tree.state = State(sequence);
      tree.length = lengths_[sequence];
      tree.rows = rows.data();
      tree.num_rows = static_cast<int32_t>(rows.size());
      lengths_[sequence] += tree.num_rows;
    }
    CommitParams params;
    params.layer = &layer();
    params.k = rows_.data() + q_size;
    params.v = params.k + layer().kv_heads * dim;
    params.kv_stride = q_size + 2 * layer().kv_heads * dim;
    params.trees = trees.data();
    params.num_trees = static_cast<int32_t>(trees.size());
    backend_.Commit(std::span(&params, 1));
  }

  // S, then z where the form has one.
  std::vector<float> Sums(int32_t sequence) const {
    const size_t m = layer().feature_dim(), heads = layer().kv_heads;
    std::vector<float> sums(heads * m * layer().head_dim);
    const LayerState state = State(sequence);
    backend_.CopyToHost(sums.data(), state.s, sums.size() * sizeof(float));
    if (splits_s_) Join(sums);
    if (layer().form.has_normaliser()) {
      std::vector<float> z(heads * m);
      backend_.CopyToHost(z.data(), state.z, z.size() * sizeof(float));
      sums.insert(sums.end(), z.begin(), z.end());
    }
    return sums;
  }

 private:
  // Halves of each KV head's S (kernels/cuda/split_float.h) become floats.
  void Join(std::vector<float>& s) const {
    const size_t size = size_t(layer().feature_dim()) * layer().head_dim;
    for (size_t first = 0; first < s.size(); first += size) {
      std::vector<uint16_t> halves(2 * size);
      std::memcpy(halves.data(), &s[first], size * sizeof(float));
      for (size_t i = 0; i < size; ++i) {
        s[first + i] = std::bit_cast<float>(cuda::JoinBits({halves[i], halves[size + i]}));
      }
    }
  }

  Backend& backend_;
  const bool splits_s_;
  const DeviceLayer device_layer_;
  const StateLayout layout_;
  std::vector<int32_t> lengths_;
  const DeviceArray<float> memory_;
  DeviceArray<float> rows_;
};

}  // namespace treeline

#endif  // TREELINE_TESTS_DEVICE_SEQUENCES_H_
