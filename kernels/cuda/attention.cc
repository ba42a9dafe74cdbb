#include "kernels/cuda/attention.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

namespace treeline::cuda {

// Arrays one behind the other, for a single copy to the device.
class Packer {
 public:
  // *device becomes where the values are on the device, when that is known.
  template <typename T>
  void Add(const std::vector<T>& values, const T** device) {
    static_assert(std::is_trivially_copyable_v<T>);
    const size_t offset = bytes_.size(), size = values.size() * sizeof(T);
    bytes_.resize(offset + (size + kAlignment - 1) / kAlignment * kAlignment);
    if (size > 0) std::memcpy(bytes_.data() + offset, values.data(), size);
    places_.push_back(
        [=](const std::byte* base) { *device = reinterpret_cast<const T*>(base + offset); });
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }
  // The bytes are on the device from here on.
  void Place(const std::byte* base) const {
    for (const auto& place : places_) place(base);
  }

 private:
  static constexpr size_t kAlignment = 16;
  std::vector<std::byte> bytes_;
  std::vector<std::function<void(const std::byte*)>> places_;
};

namespace {

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
std::vector<int64_t> RequestOf(const AttentionParams& params, const LayerState& origin) {
  std::vector<int64_t> request;
  for (int32_t i = 0; i < params.num_trees; ++i) {
    const AttentionTree& tree = params.trees[i];
    request.insert(request.end(), {StateOffset(origin, tree.state), tree.length, tree.first_row,
                                   tree.num_rows, tree.commit});
    if (!tree.commit) request.insert(request.end(), tree.parents, tree.parents + tree.num_rows);
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

const LayerState& ForestAttention::OriginOf(const AttentionLayer& layer, const LayerState& state) {
  LayerState& origin = origins_.try_emplace(&layer, state).first->second;
  // Another layer may have been where this one is.
  if (!LieAlike(origin, state)) origin = state;
  return origin;
}

const ForestAttention::Planned& ForestAttention::PlanFor(const AttentionParams& params,
                                                         const LayerState& origin) {
  const AttentionLayer& layer = *params.layer;
  auto attended = std::find_if(attended_.begin(), attended_.end(),
                               [&](const Attended& a) { return SameKind(a.planned.kind, layer); });
  if (attended == attended_.end()) {
    attended = attended_.emplace(attended_.end(), KindOf(layer), stream_);
  }
  const std::vector<int64_t> request = RequestOf(params, origin);
  if (attended->request == request) return attended->planned;
  // Kinds that had the same request last time, as those of one model have, go to the GPU together.
  const std::vector<int64_t> last = attended->request;
  Packer packer;
  std::vector<Attended*> together;
  for (Attended& other : attended_) {
    const bool is_other = &other != &*attended;
    if (is_other && (last.empty() || other.request != last)) continue;
    const AttentionLayer& kind = other.planned.kind;
    AttentionParams of_kind = params;
    of_kind.layer = &kind;
    Describe(PlanAttention(of_kind, origin, AttendStoresSingleRows(kind)), other.planned, packer);
    together.push_back(&other);
  }
  const size_t bytes = packer.bytes().size();
  auto* const memory = static_cast<std::byte*>(attended->memory.Resize(bytes));
  stream_.CopyToDevice(memory, packer.bytes().data(), bytes);
  if (memory != nullptr) packer.Place(memory);
  // After a failure there may be nothing on the GPU.
  for (Attended* other : together) {
    other->request = stream_.ok() ? request : std::vector<int64_t>();
  }
  return attended->planned;
}

void ForestAttention::Describe(const Plan& plan, Planned& planned, Packer& packer) {
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
    step.max_columns = plan.max_columns;
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
  const LayerState& origin = OriginOf(*params.layer, params.trees[0].state);
  const Planned& planned = PlanFor(params, origin);
  AttentionStep step = StepOf(planned, *params.layer, origin);
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
  // The layers of a kind have one plan, and store their rows together.
  struct Kind {
    explicit Kind(const AttentionLayer& layer) : planned(layer) {}
    Planned planned;
    std::vector<const CommitParams*> layers;
    const StoredLayer* stored = nullptr;
  };
  std::list<Kind> kinds;
  for (const CommitParams& params : layers) {
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& k) {
      return SameKind(k.planned.kind, *params.layer);
    });
    if (kind == kinds.end()) kind = kinds.emplace(kinds.end(), KindOf(*params.layer));
    kind->layers.push_back(&params);
  }
  Packer packer;
  for (Kind& kind : kinds) {
    const CommitParams& first = *kind.layers.front();
    Describe(PlanCommit(first, first.trees[0].state), kind.planned, packer);
    std::vector<StoredLayer> stored;
    for (const CommitParams* params : kind.layers) {
      stored.push_back({params->trees[0].state, params->k, params->v});
    }
    packer.Add(stored, &kind.stored);
  }
  const std::byte* uploaded = stream_.Upload(packer.bytes().size(), [&](std::byte* to) {
    std::memcpy(to, packer.bytes().data(), packer.bytes().size());
  });
  if (uploaded == nullptr) return;
  packer.Place(uploaded);
  for (const Kind& kind : kinds) {
    AttentionStep step;
    for (const CommitParams* params : kind.layers) {
      step = StepOf(kind.planned, *params->layer, params->trees[0].state);
      step.k = params->k;
      step.v = params->v;
      step.kv_stride = params->kv_stride;
      if (step.has_linear) {
        Fold(step);
        StoreSums(step, stream_);
      }
    }
    StoreRows(step, kind.stored, static_cast<int32_t>(kind.layers.size()), stream_);
  }
}

void ForestAttention::Fold(const AttentionStep& step) {
  ComputeKeyFeatures(step, stream_);
  SumFolds(step, stream_);
  ScanFolds(step, stream_);
}

}  // namespace treeline::cuda
