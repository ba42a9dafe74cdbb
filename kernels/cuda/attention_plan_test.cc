// Whatever is attended to, its work is dealt out completely and once, and as the kernels demand.
#include "kernels/cuda/attention_plan.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

namespace treeline::cuda {
namespace {

constexpr int32_t kMultiprocessors = 132;

// Tiles of so many parts that run at once where a multiprocessor takes two blocks.
WideBlocks::TilesAtOnce WideTilesAtOnce() {
  WideBlocks::TilesAtOnce at_once = {};
  for (int32_t parts = 1; parts <= WideBlocks::kMaxParts; ++parts) {
    at_once[parts] = 2 * kMultiprocessors / parts;
  }
  return at_once;
}

struct Shape {
  int32_t heads, kv_heads;
};

AttentionLayer LayerOf(const Shape& shape) {
  AttentionLayer layer;
  layer.form.group_size = 64;
  layer.form.window_size = 16 * 64;
  layer.form.sinks = 4;
  layer.form.feature_map = FeatureMap::kHedgehog;
  layer.form.feature_size = 32;
  layer.form.denominator = Denominator::kJoint;
  layer.form.conv_kernel = 63;
  layer.heads = shape.heads;
  layer.kv_heads = shape.kv_heads;
  layer.head_dim = 128;
  layer.state_type = StateType::kBF16;
  layer.k_ring_rows = layer.form.k_ring_rows(0);
  layer.v_ring_rows = layer.form.v_ring_rows(0);
  return layer;
}

// A step of sequences that decode, that verify trees, and that read prompts.
class Forest {
 public:
  Forest(int32_t sequences, std::mt19937& rng) {
    const auto draw = [&](int32_t least, int32_t most) {
      return std::uniform_int_distribution<int32_t>(least, most)(rng);
    };
    int32_t row = 0;
    for (int32_t i = 0; i < sequences; ++i) {
      AttentionTree tree;
      // States lie one behind the other.
      tree.state.ring_k = reinterpret_cast<void*>(uintptr_t{4096} * (i + 1));
      tree.length = draw(0, 3000);
      tree.first_row = row;
      tree.commit = draw(0, 2) > 0;
      tree.num_rows = draw(0, 1) == 0 ? 1 : tree.commit ? draw(1, 300) : draw(1, 64);
      for (int32_t node = 0; node < tree.num_rows; ++node) {
        parents_[i].push_back(node == 0 ? -1 : tree.commit ? node - 1 : draw(0, node - 1));
      }
      tree.parents = parents_[i].data();
      row += tree.num_rows;
      trees_.push_back(tree);
    }
  }

  Plan PlanFor(const AttentionLayer& layer) const {
    AttentionParams params;
    params.layer = &layer;
    params.trees = trees_.data();
    params.num_trees = static_cast<int32_t>(trees_.size());
    return PlanAttention(params, LayerState(), /*store_single_rows=*/true);
  }

 private:
  std::map<int32_t, std::vector<int32_t>> parents_;
  std::vector<AttentionTree> trees_;
};

// Every (segment, row, head of the group) and how many steps of its block were dealt out.
class Dealt {
 public:
  explicit Dealt(int32_t queries_per_row) : queries_per_row_(queries_per_row) {}

  void Add(const QueryBlock& block) {
    ASSERT_LE(block.begin_step, block.end_step);
    for (int32_t q = 0; q < block.num_queries; ++q) {
      const int32_t at = block.first_row * queries_per_row_ + block.first_head + q;
      std::set<int32_t>& steps = steps_[{block.segment, at}];
      for (int32_t i = block.begin_step; i < block.end_step; ++i) {
        EXPECT_TRUE(steps.insert(i).second) << "step " << i << " twice";
      }
      const int32_t all = block.steps.count();
      EXPECT_EQ(of_query_.try_emplace({block.segment, at}, all).first->second, all);
    }
  }
  void ExpectAllOf(const Plan& plan) const {
    size_t queries = 0;
    for (const Segment& segment : plan.segments) queries += segment.num_rows * queries_per_row_;
    EXPECT_EQ(steps_.size(), queries);
    for (const auto& [query, steps] : steps_) {
      EXPECT_EQ(steps.size(), of_query_.at(query));
      EXPECT_EQ(*steps.begin(), 0);
    }
  }

 private:
  using Query = std::pair<int32_t, int32_t>;
  const int32_t queries_per_row_;
  std::map<Query, std::set<int32_t>> steps_;
  std::map<Query, int32_t> of_query_;
};

TEST(AttentionPlanTest, EveryStepOfEveryQueryIsDealtOutOnce) {
  std::mt19937 rng(1);
  std::set<int32_t> warps_of_block;
  int32_t tiles_of_few = 0, tiles_of_many = 0;
  for (const Shape shape : {Shape{32, 32}, {32, 8}, {9, 3}, {32, 1}}) {
    for (const int32_t sequences : {1, 2, 7, 64, 300}) {
      const AttentionLayer layer = LayerOf(shape);
      const Plan plan = Forest(sequences, rng).PlanFor(layer);
      const WarpBlocks few = CutIntoWarpBlocks(plan, layer, kMultiprocessors);
      const WideBlocks many = CutIntoWideBlocks(plan, layer, WideTilesAtOnce());
      Dealt dealt(shape.heads / shape.kv_heads);
      // What is in parts, by tile: of which blocks of threads, and which partial results these
      // have.
      std::map<int32_t, std::set<int32_t>> partials_of_few, partials_of_many;

      ASSERT_EQ(few.blocks.size() % few.warps, 0);
      for (size_t first = 0; first < few.blocks.size(); first += few.warps) {
        const QueryBlock& leader = few.blocks[first];
        for (int32_t warp = 0; warp < few.warps; ++warp) {
          const QueryBlock& block = few.blocks[first + warp];
          if (block.segment < 0) continue;
          EXPECT_LE(block.num_queries, WarpBlocks::kQueries);
          dealt.Add(block);
          if (leader.num_parts == 1) {
            EXPECT_EQ(block.num_parts, 1);
            continue;
          }
          // Nothing but parts of one tile, in order.
          EXPECT_EQ(
              std::tuple(block.segment, block.first_row, block.first_head, block.num_parts),
              std::tuple(leader.segment, leader.first_row, leader.first_head, leader.num_parts));
          EXPECT_EQ(block.part, leader.part + warp);
        }
        if (leader.num_parts <= few.warps) continue;
        EXPECT_EQ(leader.num_parts % few.warps, 0);
        EXPECT_LE(leader.num_parts / few.warps, WarpBlocks::kMaxBlocks);
        const int32_t partial = leader.first_partial + leader.part / few.warps;
        EXPECT_LT(partial, few.num_partials);
        EXPECT_LT(leader.tile, few.num_tiles);
        EXPECT_TRUE(partials_of_few[leader.tile].insert(partial).second);
      }
      ASSERT_EQ(many.blocks.size() % many.parts, 0);
      for (size_t i = 0; i < many.blocks.size(); ++i) {
        const QueryBlock& block = many.blocks[i];
        EXPECT_LE(block.num_queries, WideBlocks::kQueries);
        dealt.Add(block);
        // The parts of a tile are neighbours, as a cluster wants them.
        EXPECT_EQ(block.num_parts, many.parts);
        EXPECT_EQ(block.part, i % many.parts);
        EXPECT_EQ(block.tile, many.blocks[i - block.part].tile);
        if (block.num_parts == 1) continue;
        EXPECT_LE(block.num_parts, WideBlocks::kMaxParts);
        EXPECT_LT(block.tile, many.num_tiles);
        EXPECT_LT(block.first_partial + block.part, many.num_partials);
        EXPECT_TRUE(partials_of_many[block.tile].insert(block.first_partial + block.part).second);
      }
      dealt.ExpectAllOf(plan);
      warps_of_block.insert(few.warps);
      tiles_of_few += few.num_tiles;
      tiles_of_many += many.num_tiles;
      // No partial result is two tiles'.
      for (const auto& [partials, count] :
           {std::pair(partials_of_few, few.num_partials), {partials_of_many, many.num_partials}}) {
        std::set<int32_t> all;
        size_t sum = 0;
        for (const auto& [tile, of_tile] : partials) {
          all.insert(of_tile.begin(), of_tile.end());
          sum += of_tile.size();
        }
        EXPECT_EQ(all.size(), sum);
        EXPECT_EQ(sum, count);
      }
    }
  }
  // All of this was seen.
  EXPECT_EQ(warps_of_block.size(), 2);
  EXPECT_GT(tiles_of_few, 0);
  EXPECT_GT(tiles_of_many, 0);
}

// A single sequence has the whole GPU: its long window is not one block's work, nor its tree.
TEST(AttentionPlanTest, LittleWorkIsSharedByManyBlocks) {
  std::mt19937 rng(1);
  const AttentionLayer layer = LayerOf({32, 32});
  AttentionTree tree;
  tree.state.ring_k = reinterpret_cast<void*>(uintptr_t{4096});
  tree.length = 3000;
  tree.num_rows = 1;
  tree.commit = true;
  AttentionParams params;
  params.layer = &layer;
  params.trees = &tree;
  params.num_trees = 1;
  const WarpBlocks decode =
      CutIntoWarpBlocks(PlanAttention(params, LayerState(), true), layer, kMultiprocessors);
  EXPECT_GT(decode.num_tiles, 0);
  const std::vector<int32_t> parents = [] {
    std::vector<int32_t> all = {-1};
    for (int32_t i = 1; i < 64; ++i) all.push_back((i - 1) / 2);
    return all;
  }();
  tree.num_rows = 64;
  tree.commit = false;
  tree.parents = parents.data();
  const WideBlocks verify =
      CutIntoWideBlocks(PlanAttention(params, LayerState(), true), layer, WideTilesAtOnce());
  EXPECT_EQ(verify.num_tiles, 1);
  EXPECT_GE(verify.num_partials, 2);
}

}  // namespace
}  // namespace treeline::cuda
