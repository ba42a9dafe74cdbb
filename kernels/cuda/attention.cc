#include "kernels/cuda/attention.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

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

  void Upload(Scratch& to, Stream& stream) {
    std::vector<std::byte> packed(bytes_);
    for (const Part& part : parts_) {
      if (part.size > 0) std::memcpy(packed.data() + part.offset, part.data, part.size);
    }
    auto* base = static_cast<std::byte*>(to.Resize(bytes_));
    stream.CopyToDevice(base, packed.data(), bytes_);
    for (const Part& part : parts_) part.place(base + part.offset);
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

// What layers must have in common to share a plan.
AttentionLayer KindOf(const AttentionLayer& layer) {
  AttentionLayer kind;
  kind.form = layer.form;
  kind.heads = layer.heads;
  kind.kv_heads = layer.kv_heads;
  kind.head_dim = layer.head_dim;
  kind.k_ring_rows = layer.k_ring_rows;
  kind.v_ring_rows = layer.v_ring_rows;
  kind.state_type = layer.state_type;
  return kind;
}
bool SameKind(const AttentionLayer& a, const AttentionLayer& b) {
  return a.form == b.form && a.heads == b.heads && a.kv_heads == b.kv_heads &&
         a.head_dim == b.head_dim && a.k_ring_rows == b.k_ring_rows &&
         a.v_ring_rows == b.v_ring_rows && a.state_type == b.state_type;
}

// Everything that a plan depends on.
std::vector<int64_t> RequestOf(const AttentionParams& params) {
  std::vector<int64_t> request;
  for (int32_t i = 0; i < params.num_trees; ++i) {
    const AttentionTree& tree = params.trees[i];
    request.insert(request.end(), {StateOffset(params.trees[0].state, tree.state), tree.length,
                                   tree.first_row, tree.num_rows, tree.commit});
    if (!tree.commit) request.insert(request.end(), tree.parents, tree.parents + tree.num_rows);
  }
  return request;
}
std::vector<int64_t> RequestOf(const CommitParams& params) {
  constexpr int64_t kCommit = -1;  // Nothing that attention asks for begins so.
  std::vector<int64_t> request = {kCommit};
  for (int32_t i = 0; i < params.num_trees; ++i) {
    const CommitTree& tree = params.trees[i];
    request.insert(request.end(),
                   {StateOffset(params.trees[0].state, tree.state), tree.length, tree.num_rows});
    request.insert(request.end(), tree.rows, tree.rows + tree.num_rows);
  }
  return request;
}

}  // namespace

ForestAttention::ForestAttention(Stream& stream)
    : stream_(stream),
      query_features_(stream),
      key_features_(stream),
      sums_(stream),
      high_sums_(stream),
      partials_(stream),
      parts_done_(stream),
      kv_bf16_(stream) {}

template <typename MakePlan>
ForestAttention::Planned& ForestAttention::PlanFor(const AttentionLayer& layer,
                                                   std::vector<int64_t> request,
                                                   const MakePlan& make_plan) {
  auto planned = std::find_if(planned_.begin(), planned_.end(),
                              [&](const Planned& p) { return SameKind(p.kind, layer); });
  if (planned == planned_.end()) {
    planned = planned_.emplace(planned_.end(), KindOf(layer), stream_);
  } else if (planned->request == request) {
    return *planned;
  }
  planned->request = std::move(request);
  Upload(make_plan(), *planned);
  // After a failure there may be nothing on the GPU.
  if (!stream_.ok()) planned->request.clear();
  return *planned;
}

void ForestAttention::Upload(const Plan& plan, Planned& planned) {
  const AttentionLayer& layer = planned.kind;
  AttentionStep& step = planned.step = AttentionStep();
  step.heads_per_kv = layer.heads / layer.kv_heads;
  step.conv_taps = layer.form.conv_taps();
  step.feature_dim = layer.feature_dim();
  step.has_linear = layer.form.has_linear();
  step.has_normaliser = layer.form.has_normaliser();
  if (layer.form.has_groups()) step.lag = layer.form.lag();

  planned.tensor_cores = step.splits_s = TakesTensorCores(layer);
  WarpBlocks blocks;
  WideBlocks wide_blocks;
  if (planned.tensor_cores) {
    blocks = CutIntoWarpBlocks(plan, layer, stream_.num_multiprocessors());
    wide_blocks = CutIntoWideBlocks(plan, layer, WideTilesAtOnce(layer, stream_));
  } else if (!plan.segments.empty()) {
    planned.block_size = AttendBlockSize(layer, plan, stream_);
    if (planned.block_size == 0) {
      stream_.Fail("attention over " + std::to_string(plan.max_columns) +
                   " rows at once does not fit this GPU's shared memory; lower --max-context");
      return;
    }
    blocks.blocks = CutIntoBlocks(plan, layer.heads / layer.kv_heads, planned.block_size);
  }
  const std::vector<FeatureTile> feature_tiles = CutFeatures(plan, FeatureTileRows(layer));
  step.num_rows = plan.num_rows;
  step.num_blocks = Count(blocks.blocks);
  step.warps_of_block = blocks.warps;
  step.num_wide_blocks = Count(wide_blocks.blocks);
  step.wide_parts = wide_blocks.parts;
  step.parts_in_clusters = stream_.has_clusters();
  step.num_feature_tiles = Count(feature_tiles);
  step.num_folds = Count(plan.folds);
  step.num_scans = Count(plan.scans);
  step.num_stored_trees = Count(plan.stored_trees);
  step.max_columns = plan.max_columns;
  step.max_stored_rows = plan.max_stored_rows;
  planned.num_feature_rows = plan.num_feature_rows;
  // Of one kernel after the other.
  planned.num_tiles = blocks.num_tiles;
  planned.num_partials = blocks.num_partials;
  if (!step.parts_in_clusters) {
    constexpr int32_t kWarpsOfWide = WideBlocks::kQueries / WarpBlocks::kQueries;
    planned.num_tiles = std::max(planned.num_tiles, wide_blocks.num_tiles);
    planned.num_partials = std::max(planned.num_partials, kWarpsOfWide * wide_blocks.num_partials);
  }

  Packer packer;
  packer.Add(plan.trees, &step.trees);
  packer.Add(plan.segments, &step.segments);
  packer.Add(plan.folds, &step.folds);
  packer.Add(plan.scans, &step.scans);
  packer.Add(blocks.blocks, &step.blocks);
  packer.Add(wide_blocks.blocks, &step.wide_blocks);
  packer.Add(feature_tiles, &step.feature_tiles);
  packer.Add(plan.rows, &step.rows);
  packer.Add(plan.depths, &step.depths);
  packer.Add(plan.ancestors, &step.ancestors);
  packer.Add(plan.stored_trees, &step.stored_trees);
  packer.Upload(planned.memory, stream_);
}

AttentionStep ForestAttention::StepOf(const Planned& planned, const AttentionLayer& layer,
                                      const LayerState& state) {
  AttentionStep step = planned.step;
  step.layer = layer;
  step.state = state;
  if (step.has_linear) {
    const size_t m = step.feature_dim;
    step.query_features = query_features_.Floats(m * step.num_rows * layer.heads);
    step.key_features = key_features_.Floats(m * planned.num_feature_rows * layer.kv_heads);
    const size_t num_sums = size_t(step.num_folds) * layer.kv_heads;
    step.sums = sums_.Floats(num_sums * m * (layer.head_dim + 1));
    if (step.splits_s) {
      step.high_sums = static_cast<SplitHigh*>(
          high_sums_.Resize(num_sums * m * layer.head_dim * sizeof(SplitHigh)));
    }
  }
  if (planned.num_tiles > 0) {
    step.partials = partials_.Floats(PartialSize(layer) * planned.num_partials * layer.kv_heads);
    step.parts_done = static_cast<int32_t*>(
        parts_done_.ResizeZeroed(sizeof(int32_t) * planned.num_tiles * layer.kv_heads));
  }
  if (step.num_wide_blocks > 0) {
    step.kv_bf16 = kv_bf16_.Resize(size_t{2} * step.num_rows * layer.kv_heads * layer.head_dim *
                                   sizeof(uint16_t));
  }
  return step;
}

void ForestAttention::Attend(const AttentionParams& params) {
  if (params.num_trees == 0) return;
  Planned& planned = PlanFor(*params.layer, RequestOf(params), [&] {
    return PlanAttention(params, AttendStoresSingleRows(*params.layer));
  });
  AttentionStep step = StepOf(planned, *params.layer, params.trees[0].state);
  step.q = params.q;
  step.k = params.k;
  step.v = params.v;
  step.out = params.out;
  step.q_stride = params.q_stride;
  step.kv_stride = params.kv_stride;
  PrepareRows(step, stream_);
  if (step.has_linear) Fold(step);
  if (planned.tensor_cores) {
    AttendManyQueries(step, stream_);
    AttendFewQueries(step, stream_);
  } else {
    cuda::Attend(step, planned.block_size, stream_);
  }
  // What is attended to has been: now the states may change.
  if (step.has_linear) StoreSums(step, stream_);
  StoreRows(step, nullptr, 1, stream_);
}

void ForestAttention::Commit(std::span<const CommitParams> layers) {
  if (layers.empty() || layers[0].num_trees == 0) return;
  // The layers of a kind store their rows together, when every group is folded.
  struct Kind {
    AttentionStep step;
    std::vector<StoredLayer> layers;
  };
  std::vector<std::pair<const Planned*, Kind>> kinds;
  for (const CommitParams& params : layers) {
    const Planned& planned =
        PlanFor(*params.layer, RequestOf(params), [&] { return PlanCommit(params); });
    AttentionStep step = StepOf(planned, *params.layer, params.trees[0].state);
    step.k = params.k;
    step.v = params.v;
    step.kv_stride = params.kv_stride;
    if (step.has_linear) {
      Fold(step);
      StoreSums(step, stream_);
    }
    auto kind = std::find_if(kinds.begin(), kinds.end(),
                             [&](const auto& k) { return k.first == &planned; });
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {&planned, {step, {}}});
    kind->second.layers.push_back({step.state, step.k, step.v});
  }
  for (const auto& [planned, kind] : kinds) {
    const size_t bytes = kind.layers.size() * sizeof(StoredLayer);
    const std::byte* uploaded =
        stream_.Upload(bytes, [&](std::byte* to) { std::memcpy(to, kind.layers.data(), bytes); });
    StoreRows(kind.step, reinterpret_cast<const StoredLayer*>(uploaded),
              static_cast<int32_t>(kind.layers.size()), stream_);
  }
}

void ForestAttention::Fold(const AttentionStep& step) {
  ComputeKeyFeatures(step, stream_);
  SumFolds(step, stream_);
  ScanFolds(step, stream_);
}

}  // namespace treeline::cuda
