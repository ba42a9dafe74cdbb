#include "kernels/cuda/attention.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace treeline::cuda {
namespace {

// Arrays one behind the other, for a single copy to the device.
class Packer {
 public:
  template <typename T>
  void Add(const std::vector<T>& values, const T** device) {
    static_assert(std::is_trivially_copyable_v<T>);
    parts_.push_back({values.data(), values.size() * sizeof(T), bytes_,
                      [device](const std::byte* at) { *device = reinterpret_cast<const T*>(at); }});
    bytes_ += (values.size() * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

  void Upload(Stream& stream) {
    const std::byte* base = stream.Upload(bytes_, [this](std::byte* to) {
      for (const Part& part : parts_) {
        if (part.size > 0) std::memcpy(to + part.offset, part.data, part.size);
      }
    });
    for (const Part& part : parts_) part.place(base == nullptr ? nullptr : base + part.offset);
  }

 private:
  static constexpr size_t kAlignment = 16;
  struct Part {
    const void* data;
    size_t size, offset;
    std::function<void(const std::byte*)> place;
  };
  std::vector<Part> parts_;
  size_t bytes_ = 0;
};

template <typename T>
int32_t Count(const std::vector<T>& values) {
  return static_cast<int32_t>(values.size());
}

}  // namespace

ForestAttention::ForestAttention(Stream& stream)
    : stream_(stream), query_features_(stream), key_features_(stream), sums_(stream) {}

AttentionStep ForestAttention::Prepare(const AttentionLayer& layer, const Plan& plan,
                                       const std::vector<QueryBlock>& blocks, int32_t num_rows) {
  AttentionStep step;
  if (layer.form.feature_size > 0 && layer.form.feature_size != 2 * layer.head_dim) {
    stream_.Fail("linear_attention.feature_size " + std::to_string(layer.form.feature_size) +
                 ": GPU kernels take hedgehog's default, two features a dimension of the head; use "
                 "--device cpu");
  }
  step.layer = layer;
  step.conv_taps = layer.form.conv_taps();
  step.feature_dim = layer.feature_dim();
  step.has_linear = layer.form.has_linear();
  step.has_normaliser = layer.form.has_normaliser();
  if (layer.form.has_groups()) step.lag = layer.form.lag();
  step.num_rows = num_rows;

  const std::vector<FeatureTile> feature_tiles = CutFeatures(plan, FeatureTileRows(layer));
  step.num_feature_tiles = Count(feature_tiles);
  Packer packer;
  packer.Add(plan.trees, &step.trees);
  packer.Add(plan.segments, &step.segments);
  packer.Add(plan.folds, &step.folds);
  packer.Add(plan.scans, &step.scans);
  packer.Add(feature_tiles, &step.feature_tiles);
  packer.Add(plan.rows, &step.rows);
  packer.Add(plan.depths, &step.depths);
  packer.Add(plan.ancestors, &step.ancestors);
  packer.Add(plan.stored_trees, &step.stored_trees);
  packer.Add(blocks, &step.blocks);
  packer.Upload(stream_);

  if (step.has_linear) {
    const size_t m = step.feature_dim;
    step.query_features = query_features_.Floats(m * num_rows * layer.heads);
    step.key_features = key_features_.Floats(m * plan.num_feature_rows * layer.kv_heads);
    step.sums = sums_.Floats(m * plan.folds.size() * layer.kv_heads * (layer.head_dim + 1));
  }
  return step;
}

void ForestAttention::Attend(const AttentionParams& params) {
  const AttentionLayer& layer = *params.layer;
  const Plan plan = PlanAttention(params);
  const int32_t queries_per_row = layer.heads / layer.kv_heads;
  int32_t num_rows = 0, most_queries = 0;
  for (const Segment& segment : plan.segments) {
    num_rows = std::max(num_rows, segment.first_row + segment.num_rows);
    most_queries = std::max(most_queries, segment.num_rows * queries_per_row);
  }
  const AttendMethod method = ChooseAttendMethod(layer, plan.max_columns, most_queries, stream_);
  if (method.block_size == 0) {
    stream_.Fail("attention over " + std::to_string(plan.max_columns) +
                 " rows at once does not fit this GPU's shared memory; lower --max-context");
    return;
  }
  const std::vector<QueryBlock> blocks = CutIntoBlocks(plan, queries_per_row, method.block_size);

  AttentionStep step = Prepare(layer, plan, blocks, num_rows);
  step.q = params.q;
  step.k = params.k;
  step.v = params.v;
  step.out = params.out;
  step.q_stride = params.q_stride;
  step.kv_stride = params.kv_stride;
  if (step.has_linear) {
    ComputeQueryFeatures(step, stream_);
    Fold(step, plan);
  }
  cuda::Attend(step, Count(blocks), method, plan.max_columns, stream_);
  Store(step, plan);
}

void ForestAttention::Commit(const CommitParams& params) {
  const Plan plan = PlanCommit(params);
  AttentionStep step = Prepare(*params.layer, plan, {}, 0);
  step.k = params.k;
  step.v = params.v;
  step.kv_stride = params.kv_stride;
  if (step.has_linear) Fold(step, plan);
  Store(step, plan);
}

void ForestAttention::Fold(const AttentionStep& step, const Plan& plan) {
  ComputeKeyFeatures(step, stream_);
  SumFolds(step, Count(plan.folds), stream_);
  ScanFolds(step, Count(plan.scans), stream_);
}

// What is attended to has been: now the states may change.
void ForestAttention::Store(const AttentionStep& step, const Plan& plan) {
  if (step.has_linear) StoreSums(step, Count(plan.scans), stream_);
  StoreRows(step, Count(plan.stored_trees), plan.max_stored_rows, stream_);
}

}  // namespace treeline::cuda
