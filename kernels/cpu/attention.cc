#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_segment.h"
#include "kernels/cpu/features-inl.h"
#include "kernels/cpu/query_block-inl.h"
#include "kernels/cpu/small_products-inl.h"
#include "kernels/float_types.h"

HWY_BEFORE_NAMESPACE();
namespace treeline::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What queries need of the keys beyond their rows, for the columns from `begin` to `end`; keys:
// [num_columns] factors that normalise the keys, then [num_columns, feature_dim] phi of the keys
// that may be linear.
void PrepareKeys(const AttentionParams& params, const Segment& segment, int32_t kv_head,
                 int32_t begin, int32_t end, AttentionWorkspace::Thread& thread, float* keys) {
  const AttentionLayer& layer = *params.layer;
  const AttentionForm& form = layer.form;
  const int32_t m = layer.feature_dim();
  float* scales = keys;
  float* features = scales + segment.num_columns();
  const bool needs_scales = form.local == Local::kRelu2;
  const int32_t linear_end = LinearEnd(form, segment);
  for (const RowRange& range : Columns(KeyRows(params, segment, kv_head), begin, end)) {
    ForEachRowBlock(range, layer.head_dim, thread.rows,
                    [&](int32_t column, const float* rows, int64_t stride, int32_t count) {
                      for (int32_t r = 0; r < count && needs_scales; ++r) {
                        scales[column + r] = form.qk_norm == QkNorm::kL2
                                                 ? InverseNorm(rows + r * stride, layer.head_dim)
                                                 : 1.0f;
                      }
                      if (column < segment.num_sinks) return;
                      // A run of columns at a time: positions of a tree's rows need not ascend.
                      for (int32_t first = 0; first < count;) {
                        int32_t last = first;
                        while (last < count && segment.column_position(column + last) < linear_end)
                          ++last;
                        if (last > first) {
                          Features(layer, rows + first * stride, stride, last - first,
                                   HeadMap(layer, layer.feature_map_k, kv_head), thread.scratch,
                                   features + int64_t{column + first} * m, m);
                        }
                        first = last + 1;
                      }
                    });
  }
}

void Attend(const AttentionParams& params, const Segment& segment, int32_t kv_head,
            int32_t first_query, int32_t num_queries, const float* keys,
            AttentionWorkspace::Thread& thread) {
  QueryBlock(params, segment, kv_head, first_query, num_queries, keys, thread).Run();
}

// sums: [feature_dim, head_dim] sum of phi(k)^T v over a group's rows, then [feature_dim] of
// phi(k). They are made before they meet S: S grows with the sequence, and adding rows to it one by
// one would lose their low bits.
void SumGroup(const AttentionLayer& layer, const GroupRows& rows, int32_t kv_head,
              AttentionWorkspace::Thread& thread, float* sums) {
  const int32_t dim = layer.head_dim, m = layer.feature_dim();
  std::fill(sums, sums + int64_t{m} * (dim + 1), 0.0f);
  float* features = thread.features.Resize(int64_t{rows.count} * m);
  for (const RowRange& range : rows.keys) {
    ForEachRowBlock(range, dim, thread.rows,
                    [&](int32_t first, const float* keys, int64_t stride, int32_t count) {
                      Features(layer, keys, stride, count,
                               HeadMap(layer, layer.feature_map_k, kv_head), thread.scratch,
                               features + int64_t{first} * m, m);
                    });
  }
  for (const RowRange& range : rows.values) {
    ForEachRowBlock(
        range, dim, thread.rows,
        [&](int32_t first, const float* values, int64_t stride, int32_t count) {
          WeightedSums({features + int64_t{first} * m, m, 1}, values, stride, count, sums, m, dim);
        });
  }
  float* feature_sums = sums + int64_t{m} * dim;
  for (int32_t r = 0; r < rows.count; ++r) {
    for (int32_t i = 0; i < m; ++i) feature_sums[i] += features[int64_t{r} * m + i];
  }
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(PrepareKeys);
HWY_EXPORT(Attend);
HWY_EXPORT(SumGroup);

// The group that leaves every window when a sequence reaches `length` tokens; negative: none does.
int32_t LeavingGroup(const AttentionForm& form, int32_t length) {
  if (!form.has_linear() || length % form.group_size != 0) return -1;
  return length / form.group_size - form.lag();
}

// S <- decay S + the group's sums; z likewise.
void Fold(const AttentionLayer& layer, const LayerState& state, int32_t group, int32_t kv_head,
          const float* sums) {
  const int32_t dim = layer.head_dim, m = layer.feature_dim();
  const float decay = layer.form.decay ? layer.decay[kv_head] : 1.0f;
  const auto merge = [&](float* total, const float* added, int64_t count) {
    if (group == 0) {  // Nothing was folded before: S is undefined.
      std::copy_n(added, count, total);
      return;
    }
    for (int64_t i = 0; i < count; ++i) total[i] = decay * total[i] + added[i];
  };
  merge(state.s + int64_t{kv_head} * m * dim, sums, int64_t{m} * dim);
  if (layer.form.has_normaliser()) {
    merge(state.z + int64_t{kv_head} * m, sums + int64_t{m} * dim, m);
  }
}

void FoldFromRings(const AttentionLayer& layer, const LayerState& state, int32_t group,
                   int32_t kv_head, AttentionWorkspace::Thread& thread) {
  const GroupRows rows = CommittedGroup(layer, state, group, kv_head);
  float* sums = thread.outputs.Resize(int64_t{layer.feature_dim()} * (layer.head_dim + 1));
  HWY_DYNAMIC_DISPATCH(SumGroup)(layer, rows, kv_head, thread, sums);
  Fold(layer, state, group, kv_head, sums);
}

void StoreValues(const AttentionLayer& layer, void* rows, int64_t row, const float* values) {
  const int32_t dim = layer.head_dim;
  if (layer.state_type == StateType::kF32) {
    std::copy_n(values, dim, static_cast<float*>(rows) + row * dim);
  } else {
    uint16_t* out = static_cast<uint16_t*>(rows) + row * dim;
    for (int32_t i = 0; i < dim; ++i) out[i] = FloatToBf16(values[i]);
  }
}

void StoreRow(const AttentionLayer& layer, const LayerState& state, int32_t position,
              int32_t kv_head, const float* k, const float* v) {
  const int32_t sinks = layer.form.sinks;
  if (layer.form.has_groups() && position < sinks) {
    StoreValues(layer, state.sink_k, int64_t{kv_head} * sinks + position, k);
    StoreValues(layer, state.sink_v, int64_t{kv_head} * sinks + position, v);
    return;
  }
  const auto row = [&](int32_t ring_rows) {
    return int64_t{kv_head} * ring_rows + position % ring_rows;
  };
  StoreValues(layer, state.ring_k, row(layer.k_ring_rows), k);
  StoreValues(layer, state.ring_v, row(layer.v_ring_rows), v);
}

void CommitHead(const CommitParams& params, const CommitTree& tree, int32_t kv_head,
                AttentionWorkspace::Thread& thread) {
  const AttentionLayer& layer = *params.layer;
  const int32_t head = kv_head * layer.head_dim;
  for (int32_t i = 0; i < tree.num_rows; ++i) {
    const int64_t row = int64_t{tree.rows[i]} * params.kv_stride;
    const int32_t position = tree.length + i;
    StoreRow(layer, tree.state, position, kv_head, params.k + row + head, params.v + row + head);
    const int32_t leaving = LeavingGroup(layer.form, position + 1);
    if (leaving >= 0) FoldFromRings(layer, tree.state, leaving, kv_head, thread);
  }
}

// The pieces of every tree that can be attended to now: whole trees, but committed chains
// only up to the next group boundary. `done` counts each tree's rows of earlier rounds.
std::vector<Segment> NextSegments(const AttentionParams& params, std::vector<int32_t>& done) {
  const AttentionForm& form = params.layer->form;
  std::vector<Segment> segments;
  for (int32_t t = 0; t < params.num_trees; ++t) {
    const AttentionTree& tree = params.trees[t];
    int32_t rows = tree.num_rows - done[t];
    if (rows == 0) continue;
    if (tree.commit && form.has_groups()) {
      const int32_t length = tree.length + done[t];
      rows = std::min(rows, form.group_size - length % form.group_size);
    }
    segments.push_back(MakeSegment(*params.layer, tree, done[t], rows));
    done[t] += rows;
  }
  return segments;
}

// The queries of one segment and KV head, and what is made for them.
struct HeadTask {
  const Segment* segment;
  int32_t kv_head;
  int32_t num_queries;
  float* keys = nullptr;  // What PrepareKeys makes; null where the form needs nothing of it.
  float* sums = nullptr;  // What SumGroup makes of the leaving group; null where none leaves.
};

void Prepare(const AttentionParams& params, const HeadTask& task, int32_t begin, int32_t end,
             AttentionWorkspace::Thread& thread) {
  HWY_DYNAMIC_DISPATCH(PrepareKeys)
  (params, *task.segment, task.kv_head, begin, end, thread, task.keys);
}

void AttendBlock(const AttentionParams& params, const HeadTask& task, int32_t first_query,
                 AttentionWorkspace::Thread& thread) {
  HWY_DYNAMIC_DISPATCH(Attend)
  (params, *task.segment, task.kv_head, first_query,
   std::min(kQueryBlock, task.num_queries - first_query), task.keys, thread);
}

void SumLeavingGroup(const AttentionParams& params, const HeadTask& task,
                     AttentionWorkspace::Thread& thread) {
  const int32_t group =
      LeavingGroup(params.layer->form, task.segment->length + task.segment->num_rows);
  const GroupRows rows = SegmentGroup(params, *task.segment, group, task.kv_head);
  HWY_DYNAMIC_DISPATCH(SumGroup)(*params.layer, rows, task.kv_head, thread, task.sums);
}

void CommitSegment(const AttentionParams& params, const HeadTask& task) {
  const AttentionLayer& layer = *params.layer;
  const Segment& segment = *task.segment;
  if (!segment.tree->commit) return;
  for (int32_t i = 0; i < segment.num_rows; ++i) {
    const int64_t row =
        (segment.first_row + i) * params.kv_stride + int64_t{task.kv_head} * layer.head_dim;
    StoreRow(layer, segment.tree->state, segment.length + i, task.kv_head, params.k + row,
             params.v + row);
  }
  if (task.sums == nullptr) return;
  const int32_t group = LeavingGroup(layer.form, segment.length + segment.num_rows);
  Fold(layer, segment.tree->state, group, task.kv_head, task.sums);
}

// One block of queries: all of it in one task. This is decoding.
void RunWhole(const AttentionParams& params, const HeadTask& task,
              AttentionWorkspace::Thread& thread) {
  if (task.keys != nullptr) Prepare(params, task, 0, task.segment->num_columns(), thread);
  AttendBlock(params, task, 0, thread);
  if (task.sums != nullptr) SumLeavingGroup(params, task, thread);
  CommitSegment(params, task);
}

// Many blocks: the keys first, then the blocks and the leaving groups' sums, then the state, each
// by all threads.
void RunInPhases(const AttentionParams& params, const std::vector<HeadTask>& tasks,
                 AttentionWorkspace& workspace, ThreadPool& pool) {
  struct Part {
    const HeadTask* task;
    int32_t begin;  // kSums: not a block of queries.
  };
  constexpr int32_t kSums = -1;
  std::vector<Part> key_parts, parts;
  for (const HeadTask& task : tasks) {
    for (int32_t c = 0; task.keys != nullptr && c < task.segment->num_columns(); c += kRowBlock) {
      key_parts.push_back({&task, c});
    }
    if (task.sums != nullptr) parts.push_back({&task, kSums});
  }
  for (const HeadTask& task : tasks) {
    for (int32_t q = 0; q < task.num_queries; q += kQueryBlock) parts.push_back({&task, q});
  }
  pool.ParallelFor(static_cast<int64_t>(key_parts.size()), [&](int64_t i, int32_t thread) {
    const auto [task, begin] = key_parts[i];
    const int32_t end = std::min(begin + kRowBlock, task->segment->num_columns());
    Prepare(params, *task, begin, end, workspace.per_thread[thread]);
  });
  pool.ParallelFor(static_cast<int64_t>(parts.size()), [&](int64_t i, int32_t thread) {
    const auto [task, begin] = parts[i];
    if (begin == kSums) {
      SumLeavingGroup(params, *task, workspace.per_thread[thread]);
    } else {
      AttendBlock(params, *task, begin, workspace.per_thread[thread]);
    }
  });
  pool.ParallelFor(static_cast<int64_t>(tasks.size()),
                   [&](int64_t i, int32_t) { CommitSegment(params, tasks[i]); });
}

}  // namespace

void Attention(const AttentionParams& params, AttentionWorkspace& workspace, ThreadPool& pool) {
  const AttentionLayer& layer = *params.layer;
  std::vector<int32_t> done(params.num_trees, 0);
  for (;;) {
    const std::vector<Segment> segments = NextSegments(params, done);
    if (segments.empty()) return;
    const size_t heads = segments.size() * layer.kv_heads;
    if (workspace.per_head.size() < heads) workspace.per_head.resize(heads);

    std::vector<HeadTask> small, large;
    for (const Segment& segment : segments) {
      const bool needs_keys =
          layer.form.local == Local::kRelu2 || LinearEnd(layer.form, segment) > segment.k_begin;
      const bool folds =
          segment.tree->commit && LeavingGroup(layer.form, segment.length + segment.num_rows) >= 0;
      const int32_t queries = segment.num_rows * (layer.heads / layer.kv_heads);
      for (int32_t kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
        AttentionWorkspace::Head& head = workspace.per_head[small.size() + large.size()];
        HeadTask task = {&segment, kv_head, queries};
        if (needs_keys) {
          task.keys = head.keys.Resize(int64_t{segment.num_columns()} * (1 + layer.feature_dim()));
        }
        if (folds) {
          task.sums = head.sums.Resize(int64_t{layer.feature_dim()} * (layer.head_dim + 1));
        }
        (queries <= kQueryBlock ? small : large).push_back(task);
      }
    }
    pool.ParallelFor(static_cast<int64_t>(small.size()), [&](int64_t i, int32_t thread) {
      RunWhole(params, small[i], workspace.per_thread[thread]);
    });
    if (!large.empty()) RunInPhases(params, large, workspace, pool);
  }
}

void Commit(const CommitParams& params, AttentionWorkspace& workspace, ThreadPool& pool) {
  const int32_t kv_heads = params.layer->kv_heads;
  pool.ParallelFor(int64_t{params.num_trees} * kv_heads, [&](int64_t task, int32_t thread) {
    CommitHead(params, params.trees[task / kv_heads], static_cast<int32_t>(task % kv_heads),
               workspace.per_thread[thread]);
  });
}

}  // namespace treeline::cpu
#endif  // HWY_ONCE
