#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <cstddef>

namespace treeline::cuda {

int64_t StateOffset(const LayerState& first, const LayerState& state) {
  return static_cast<const std::byte*>(state.ring_k) - static_cast<const std::byte*>(first.ring_k);
}

bool LieAlike(const LayerState& first, const LayerState& state) {
  const int64_t offset = StateOffset(first, state);
  const auto is_part_alike = [&](const void* from, const void* to) {
    if (from == nullptr || to == nullptr) return from == to;
    return static_cast<const std::byte*>(to) - static_cast<const std::byte*>(from) == offset;
  };
  return is_part_alike(first.s, state.s) && is_part_alike(first.z, state.z) &&
         is_part_alike(first.sink_k, state.sink_k) && is_part_alike(first.sink_v, state.sink_v) &&
         is_part_alike(first.ring_v, state.ring_v);
}

namespace {

class Planner {
 public:
  explicit Planner(const AttentionLayer& layer) : layer_(layer), form_(layer.form) {}

  void AddAttention(const AttentionTree& tree, int64_t state_offset, bool store_single_row) {
    const int32_t index = AddTree(state_offset, tree.length, tree.first_row, tree.num_rows);
    const int32_t first_fold = static_cast<int32_t>(plan_.folds.size());
    plan_.num_rows = std::max(plan_.num_rows, tree.first_row + tree.num_rows);
    if (tree.commit) {
      AddFolds(index);
      AddChain(index, first_fold);
      if (store_single_row && tree.num_rows == 1) {
        plan_.segments.back().is_stored = true;
      } else {
        AddStore(index);
      }
      AddFeatures(index, first_fold, form_.window_begin(tree.length + tree.num_rows - 1), true);
      return;
    }
    AddSegment(index, 0, tree.num_rows,
               Folded(tree.length) ? Segment::kSumsOfState : Segment::kNoSums);
    Segment& segment = plan_.segments.back();
    const int32_t deepest = AddNodes(segment, tree.parents);
    SetLinearColumns(segment, tree.length + deepest);
    AddFeatures(index, first_fold, form_.window_begin(tree.length + deepest), segment.nodes < 0);
  }

  void AddCommit(const CommitTree& tree, int64_t state_offset) {
    const int32_t index = AddTree(state_offset, tree.length, 0, tree.num_rows);
    plan_.trees.back().rows = static_cast<int32_t>(plan_.rows.size());
    plan_.rows.insert(plan_.rows.end(), tree.rows, tree.rows + tree.num_rows);
    const int32_t first_fold = static_cast<int32_t>(plan_.folds.size());
    AddFolds(index);
    AddStore(index);
    AddFeatures(index, first_fold, 0, true);
  }

  Plan Take() { return std::move(plan_); }

 private:
  int32_t Group(int32_t position) const {
    return form_.has_groups() ? position / form_.group_size : 0;
  }
  // True if S holds anything after `length` tokens.
  bool Folded(int32_t length) const { return form_.has_linear() && Group(length) >= form_.lag(); }

  // The first position that is in no S after `length` tokens, sinks aside.
  int32_t UnfoldedBegin(int32_t length) const {
    if (!form_.has_groups()) return 0;
    return std::max(0, (Group(length) - form_.lag() + 1) * form_.group_size);
  }

  int32_t AddTree(int64_t state_offset, int32_t length, int32_t first_row, int32_t num_rows) {
    Tree tree;
    tree.state_offset = state_offset;
    tree.length = length;
    tree.first_row = first_row;
    tree.num_rows = num_rows;
    plan_.trees.push_back(tree);
    return static_cast<int32_t>(plan_.trees.size()) - 1;
  }

  // The segment of rows [done, done + num_rows) of a tree.
  void AddSegment(int32_t index, int32_t done, int32_t num_rows, int32_t sums) {
    const Tree& tree = plan_.trees[index];
    Segment segment;
    segment.tree = index;
    segment.length = tree.length + done;
    segment.group = Group(segment.length);
    segment.first_row = tree.first_row + done;
    segment.num_rows = num_rows;
    segment.sums = sums;
    segment.num_sinks = form_.has_groups() ? std::min(segment.length, form_.sinks) : 0;
    segment.k_begin = UnfoldedBegin(segment.length);
    const int32_t oldest_tap = segment.length - std::max(0, form_.conv_taps() - 1);
    segment.v_begin = std::max(std::min(segment.k_begin, oldest_tap), segment.num_sinks);
    segment.k_begin = std::max(segment.k_begin, segment.num_sinks);
    segment.k_ring_row = segment.k_begin % layer_.k_ring_rows;
    segment.v_ring_row = segment.v_begin % layer_.v_ring_rows;
    plan_.segments.push_back(segment);
    plan_.max_columns = std::max(plan_.max_columns, segment.num_columns());
  }

  // The segment's deepest row is at `position`.
  void SetLinearColumns(Segment& segment, int32_t position) const {
    const auto column_of = [&](int32_t p) { return segment.num_sinks + p - segment.v_begin; };
    segment.linear_begin = column_of(segment.k_begin);
    segment.linear_end = column_of(form_.window_begin(position));
    // A tree's nodes are at many positions: of these all or none.
    if (segment.nodes >= 0 && segment.linear_end > column_of(segment.length)) {
      segment.linear_end = segment.num_columns();
    }
    segment.linear_end = std::max(segment.linear_begin, segment.linear_end);
  }

  // Cuts a chain at group boundaries; its folds begin at first_fold.
  void AddChain(int32_t index, int32_t first_fold) {
    const Tree tree = plan_.trees[index];
    // The first boundary at which a group is folded.
    const int32_t first_folding =
        form_.has_groups() ? std::max(Group(tree.length) + 1, form_.lag()) : 0;
    for (int32_t done = 0; done < tree.num_rows;) {
      const int32_t length = tree.length + done;
      int32_t rows = tree.num_rows - done;
      if (form_.has_groups()) {
        rows = std::min(rows, form_.group_size - length % form_.group_size);
      }
      int32_t sums = Segment::kNoSums;
      if (Folded(length)) {
        sums = done == 0 ? Segment::kSumsOfState : first_fold + Group(length) - first_folding;
      }
      AddSegment(index, done, rows, sums);
      SetLinearColumns(plan_.segments.back(), length + rows - 1);
      done += rows;
    }
  }

  // The parents as depths and ancestor bits, unless they are a chain's. Returns the largest depth.
  int32_t AddNodes(Segment& segment, const int32_t* parents) {
    bool is_chain = true;
    for (int32_t i = 1; i < segment.num_rows; ++i) is_chain &= parents[i] == i - 1;
    if (is_chain) return segment.num_rows - 1;
    segment.nodes = static_cast<int32_t>(plan_.depths.size());
    int32_t deepest = 0;
    for (int32_t i = 0; i < segment.num_rows; ++i) {
      const int32_t parent = parents[i];
      const bool is_root = parent < 0;
      const int32_t depth = is_root ? 0 : plan_.depths[segment.nodes + parent] + 1;
      const uint64_t above = is_root ? 0 : plan_.ancestors[segment.nodes + parent];
      plan_.depths.push_back(depth);
      plan_.ancestors.push_back(above | uint64_t{1} << i);
      deepest = std::max(deepest, depth);
    }
    return deepest;
  }

  // The groups that leave every window while the tree's rows are appended.
  void AddFolds(int32_t index) {
    if (!form_.has_linear()) return;
    const Tree& tree = plan_.trees[index];
    Scan scan;
    scan.tree = index;
    scan.first_fold = static_cast<int32_t>(plan_.folds.size());
    scan.from_nothing = !Folded(tree.length);
    const int32_t last_boundary = Group(tree.length + tree.num_rows);
    for (int32_t boundary = Group(tree.length) + 1; boundary <= last_boundary; ++boundary) {
      const int32_t group = boundary - form_.lag();
      if (group < 0) continue;
      const int32_t end = (group + 1) * form_.group_size;
      plan_.folds.push_back(
          {index, std::min(std::max(group * form_.group_size, form_.sinks), end), end});
    }
    scan.num_folds = static_cast<int32_t>(plan_.folds.size()) - scan.first_fold;
    if (scan.num_folds > 0) plan_.scans.push_back(scan);
  }

  void AddStore(int32_t index) {
    plan_.stored_trees.push_back(index);
    plan_.max_stored_rows = std::max(plan_.max_stored_rows, plan_.trees[index].num_rows);
  }

  // Key features are wanted of positions below linear_end, and of what is folded.
  void AddFeatures(int32_t index, int32_t first_fold, int32_t linear_end, bool is_chain) {
    if (!form_.has_linear()) return;
    Tree& tree = plan_.trees[index];
    const bool folds = static_cast<size_t>(first_fold) < plan_.folds.size();
    tree.features_begin = std::max(UnfoldedBegin(tree.length), std::min(tree.length, form_.sinks));
    tree.features_end = folds ? std::max(linear_end, plan_.folds.back().end) : linear_end;
    tree.features = plan_.num_feature_rows;
    const int32_t committed = tree.length - tree.features_begin;
    plan_.num_feature_rows += committed + tree.num_rows;
    // Nodes of a tree are at many positions: of these all or none.
    const bool all = !is_chain && tree.features_end > tree.length;
    tree.num_features = all ? committed + tree.num_rows
                            : std::clamp(tree.features_end - tree.features_begin, 0,
                                         committed + (is_chain ? tree.num_rows : 0));
  }

  const AttentionLayer& layer_;
  const AttentionForm& form_;
  Plan plan_;
};

}  // namespace

bool TakesTensorCores(const AttentionLayer& layer) {
  return layer.state_type == StateType::kBF16 && layer.form.has_groups() &&
         (layer.head_dim == 64 || layer.head_dim == 128) &&
         layer.feature_dim() % WarpBlocks::kStep == 0;
}

Plan PlanAttention(const AttentionParams& params, const LayerState& origin,
                   bool store_single_rows) {
  Planner planner(*params.layer);
  for (int32_t i = 0; i < params.num_trees; ++i) {
    const AttentionTree& tree = params.trees[i];
    planner.AddAttention(tree, StateOffset(origin, tree.state), store_single_rows);
  }
  return planner.Take();
}

Plan PlanCommit(const CommitParams& params, const LayerState& origin) {
  Planner planner(*params.layer);
  for (int32_t i = 0; i < params.num_trees; ++i) {
    const CommitTree& tree = params.trees[i];
    planner.AddCommit(tree, StateOffset(origin, tree.state));
  }
  return planner.Take();
}

std::vector<QueryBlock> CutIntoBlocks(const Plan& plan, int32_t queries_per_row, int32_t size,
                                      int32_t least, int32_t most) {
  std::vector<QueryBlock> blocks;
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const Segment& segment = plan.segments[i];
    const int32_t queries = segment.num_rows * queries_per_row;
    if (queries < least || queries > most) continue;
    for (int32_t first = 0; first < queries; first += size) {
      QueryBlock block;
      block.segment = static_cast<int32_t>(i);
      block.first_row = first / queries_per_row;
      block.first_head = first % queries_per_row;
      block.num_queries = std::min(size, queries - first);
      const int32_t last_row = (first + block.num_queries - 1) / queries_per_row;
      block.num_columns = segment.num_columns() - segment.num_rows + last_row + 1;
      blocks.push_back(block);
    }
  }
  return blocks;
}

namespace {

// The steps of a block, all of them its own, of `size` columns or features.
void CountSteps(const Segment& segment, const AttentionLayer& layer, int32_t size,
                QueryBlock& block) {
  const auto steps = [&](int32_t columns) { return (std::max(columns, 0) + size - 1) / size; };
  const int32_t taps = layer.form.conv_taps();
  // The rows of a tree are at any depth.
  const int32_t row = segment.nodes < 0 ? block.first_row : 0;
  const int32_t oldest = std::max(0, segment.length + row - (taps - 1));
  block.first_conv = oldest < segment.num_sinks
                         ? oldest
                         : segment.num_sinks + std::max(0, oldest - segment.v_begin);
  block.linear_end = std::min(segment.linear_end, block.num_columns);
  block.steps.local = layer.form.local == Local::kNone ? 0 : steps(block.num_columns);
  block.steps.features = segment.sums == Segment::kNoSums ? 0 : steps(layer.feature_dim());
  if (layer.form.has_linear()) {
    block.steps.linear = steps(block.linear_end - segment.linear_begin);
  }
  block.steps.conv = taps > 0 ? steps(block.num_columns - block.first_conv) : 0;
  block.end_step = block.steps.count();
}

}  // namespace

WarpBlocks CutIntoWarpBlocks(const Plan& plan, const AttentionLayer& layer,
                             int32_t num_multiprocessors) {
  const int32_t queries_per_row = layer.heads / layer.kv_heads;
  std::vector<QueryBlock> tiles =
      CutIntoBlocks(plan, queries_per_row, WarpBlocks::kQueries, 0, WarpBlocks::kQueries);
  const int32_t tasks = static_cast<int32_t>(tiles.size()) * layer.kv_heads;
  // Warps that a multiprocessor has registers for, and how many it is worth to keep it busy with
  // where a tile has few queries, whose results are quickly added up.
  constexpr int32_t kFewQueries = 4, kWarpsAtOnce = 8, kWarpsWantedOfFew = 16;
  WarpBlocks result;
  // Fewer warps a block where there are more blocks than run at once.
  if (tasks * WarpBlocks::kMaxWarps > num_multiprocessors * kWarpsAtOnce) {
    result.warps = WarpBlocks::kMinWarps;
  }
  const auto parts_of = [&](const QueryBlock& tile) {
    const bool few = tile.num_queries <= kFewQueries;
    const int32_t wanted = num_multiprocessors * (few ? kWarpsWantedOfFew : kWarpsAtOnce);
    const int32_t steps = tile.end_step;
    if (tasks >= wanted || steps < (few ? 4 : 8)) return 1;
    // A block of threads adds up its warps' results in about the time of two steps; to add up
    // blocks' results takes much longer.
    constexpr int32_t kStepsOfBlocks = 4;
    const int32_t blocks = std::min({WarpBlocks::kMaxBlocks,
                                     num_multiprocessors * kWarpsAtOnce / (tasks * result.warps),
                                     steps / (kStepsOfBlocks * result.warps)});
    return std::max(1, blocks) * result.warps;
  };
  std::vector<QueryBlock> whole;
  for (QueryBlock tile : tiles) {
    CountSteps(plan.segments[tile.segment], layer, WarpBlocks::kStep, tile);
    tile.num_parts = parts_of(tile);
    if (tile.num_parts == 1) {
      whole.push_back(tile);
      continue;
    }
    if (tile.num_parts > result.warps) {
      tile.tile = result.num_tiles++;
      tile.first_partial = result.num_partials;
      result.num_partials += tile.num_parts / result.warps;
    }
    for (tile.part = 0; tile.part < tile.num_parts; ++tile.part) {
      tile.begin_step = tile.steps.count() * tile.part / tile.num_parts;
      tile.end_step = tile.steps.count() * (tile.part + 1) / tile.num_parts;
      result.blocks.push_back(tile);
    }
  }
  result.blocks.insert(result.blocks.end(), whole.begin(), whole.end());
  const size_t warps = result.warps;
  result.blocks.resize((result.blocks.size() + warps - 1) / warps * warps);
  return result;
}

WideBlocks CutIntoWideBlocks(const Plan& plan, const AttentionLayer& layer,
                             const WideBlocks::TilesAtOnce& at_once) {
  std::vector<QueryBlock> tiles = CutIntoBlocks(plan, layer.heads / layer.kv_heads,
                                                WideBlocks::kQueries, WarpBlocks::kQueries + 1);
  int32_t most_steps = 0;
  for (QueryBlock& tile : tiles) {
    CountSteps(plan.segments[tile.segment], layer, WideBlocks::kStep, tile);
    most_steps = std::max(most_steps, tile.end_step);
  }
  const int32_t tasks = static_cast<int32_t>(tiles.size()) * layer.kv_heads;
  WideBlocks result;
  for (int32_t parts = 2; parts <= std::min(WideBlocks::kMaxParts, most_steps); ++parts) {
    if (tasks > at_once[parts]) continue;
    // A part costs writing and reading its results, about as much as two steps; where most of the
    // GPU would be idle, it is still worth one.
    const bool is_idle = 2 * tasks <= at_once[parts];
    if (parts <= most_steps / (is_idle ? 1 : 2)) result.parts = parts;
  }
  for (QueryBlock tile : tiles) {
    if (result.parts > 1) {
      tile.num_parts = result.parts;
      tile.tile = result.num_tiles++;
      tile.first_partial = result.num_partials;
      result.num_partials += result.parts;
    }
    for (tile.part = 0; tile.part < result.parts; ++tile.part) {
      tile.begin_step = tile.steps.count() * tile.part / result.parts;
      tile.end_step = tile.steps.count() * (tile.part + 1) / result.parts;
      result.blocks.push_back(tile);
    }
  }
  return result;
}

std::vector<FeatureTile> CutFeatures(const Plan& plan, int32_t size) {
  std::vector<FeatureTile> tiles;
  for (size_t i = 0; i < plan.trees.size(); ++i) {
    for (int32_t first = 0; first < plan.trees[i].num_features; first += size) {
      tiles.push_back({static_cast<int32_t>(i), first});
    }
  }
  return tiles;
}

}  // namespace treeline::cuda
