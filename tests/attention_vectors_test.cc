// The CPU's attention against outputs of independent scripts, checked in
// (tests/testdata/attention/README.md).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/model/attention_spec.h"
#include "engine/model/safetensors.h"
#include "engine/state/state_layout.h"
#include "kernels/cpu/attention.h"
#include "kernels/reference/attention.h"

namespace treeline {
namespace {

constexpr double kTolerance = 2e-6;

TEST(AttentionVectors, MatchIndependentScripts) {
  const char* path = "tests/testdata/attention/vectors.safetensors";
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto tensors = ParseSafetensors(file->bytes(), path);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  uint64_t header_size;
  std::memcpy(&header_size, file->bytes().data(), 8);
  const auto header = ParseJson(
      std::string_view(reinterpret_cast<const char*>(file->bytes().data()) + 8, header_size), path);
  ASSERT_TRUE(header.ok());
  const auto cases = ParseJson((*header)["__metadata__"]["cases"].get<std::string>(), "cases");
  ASSERT_TRUE(cases.ok());
  ASSERT_GE(cases->size(), 5u);

  for (const Json& c : *cases) {
    const std::string name = c["name"];
    SCOPED_TRACE(name + ": " + c["linear_attention"].dump());
    const auto specs = AttentionSpec::ForLayers(c["linear_attention"], 1);
    ASSERT_TRUE(specs.ok()) << specs.status();
    const AttentionSpec& spec = (*specs)[0];
    const auto values = [&](const char* tensor) {
      std::vector<float> result;
      const auto it = tensors->find(name + "." + tensor);
      if (it != tensors->end()) {
        result.resize(it->second.num_elements());
        CopyToFloat(it->second, result);
      }
      return result;
    };
    const std::vector<float> q = values("q"), k = values("k"), v = values("v"), out = values("out");
    const std::vector<float> taps = values("conv"), map_q = values("feature_map_q"),
                             map_k = values("feature_map_k"), decay = values("decay");
    std::vector<float> factor = values("linear_factor");
    for (float& f : factor) f = std::exp(f);

    AttentionLayer layer;
    layer.form = spec.form;
    layer.heads = c["heads"];
    layer.kv_heads = c["kv_heads"];
    layer.head_dim = c["head_dim"];
    const int32_t n = c["length"];
    layer.k_ring_rows = layer.form.k_ring_rows(n);
    layer.v_ring_rows = layer.form.v_ring_rows(n);
    layer.alpha = spec.alpha.value_or(1.0f);
    layer.linear_factor = factor.data();
    layer.decay = decay.data();
    layer.feature_map_q = map_q.empty() ? nullptr : map_q.data();
    layer.feature_map_k = map_k.empty() ? nullptr : map_k.data();
    layer.conv_taps = taps.data();

    const StateLayout layout({layer});
    std::vector<float> memory(layout.bytes() / sizeof(float) + 16, std::nanf(""));
    void* slot = memory.data();
    size_t space = memory.size() * sizeof(float);
    std::align(64, layout.bytes(), slot, space);
    std::vector<int32_t> parents(n);
    for (int32_t i = 0; i < n; ++i) parents[i] = i - 1;
    AttentionTree tree;
    tree.state = layout.At(slot, 0);
    tree.num_rows = n;
    tree.parents = parents.data();
    tree.commit = true;
    std::vector<float> actual(out.size());
    AttentionParams params;
    params.layer = &layer;
    params.q = q.data();
    params.k = k.data();
    params.v = v.data();
    params.out = actual.data();
    params.q_stride = layer.heads * layer.head_dim;
    params.kv_stride = layer.kv_heads * layer.head_dim;
    params.trees = &tree;
    params.num_trees = 1;
    ThreadPool pool(1);
    cpu::AttentionWorkspace workspace(1);
    cpu::Attention(params, workspace, pool);

    const std::vector<double> reference =
        reference::Attention(layer, n, q.data(), k.data(), v.data());
    double largest = 0, error = 0, reference_error = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_TRUE(std::isfinite(actual[i]));
      largest = std::max(largest, std::abs(double{out[i]}));
      error = std::max(error, std::abs(double{actual[i]} - out[i]));
      reference_error = std::max(reference_error, std::abs(reference[i] - out[i]));
    }
    EXPECT_LE(error / largest, kTolerance);
    // The definition itself agrees to the rounding of the file's fp32.
    EXPECT_LE(reference_error / largest, 1e-7);
  }
}

}  // namespace
}  // namespace treeline
