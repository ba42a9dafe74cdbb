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
  for (const RowRange& range : KeyRows(params, segment, kv_head)) {
    RowRange part = Skip(range, std::clamp(begin - range.first_column, 0, range.count));
    part.count = std::clamp(end - part.first_column, 0, part.count);
    ForEachRowBlock(
        part, layer.head_dim, thread.rows,
        [&](int32_t column, const float* rows, int64_t stride, int32_t count) {
          for (int32_t r = 0; r < count && needs_scales; ++r) {
            scales[column + r] =
                form.qk_norm == QkNorm::kL2 ? InverseNorm(rows + r * stride, layer.head_dim) : 1.0f;
          }
          if (column < segment.num_sinks) return;
          // A run of columns at a time: positions of a tree's rows need not ascend.
          for (int32_t first = 0; first < count;) {
            int32_t last = first;
            while (last < count && segment.column_position(column + last) < linear_end) ++last;
            if (last > first) {
              Features(layer, rows + first * stride, stride, last - first, KeyMap(layer, kv_head),
                       thread.scratch, features + int64_t{column + first} * m, m);
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

// Folds the group that left every window when the sequence reached `length` tokens:
// S <- decay S + sum of phi(k)^T v over its rows, sinks left out; z likewise.
void FoldGroup(const AttentionLayer& layer, const LayerState& state, int32_t length,
               int32_t kv_head, AttentionWorkspace::Thread& thread) {
  const AttentionForm& form = layer.form;
  const int32_t dim = layer.head_dim, m = layer.feature_dim();
  const int32_t group = length / form.group_size - form.lag();
  if (group < 0) return;

  // The group's own sums first: S grows with the sequence, and adding rows to it one by one
  // would lose their low bits.
  float* sums = thread.outputs.Resize(int64_t{m} * (dim + 1));
  float* feature_sums = sums + int64_t{m} * dim;
  std::fill(sums, sums + int64_t{m} * (dim + 1), 0.0f);
  const int32_t begin = std::max(group * form.group_size, form.sinks);
  const int32_t count = std::max(0, (group + 1) * form.group_size - begin);
  float* features = thread.features.Resize(int64_t{count} * m);
  // A group's rows lie together in the K ring, which holds whole groups; in the V ring a
  // longer convolution tail may part them.
  const RowRange keys = RingRows(layer, state.ring_k, layer.k_ring_rows, kv_head, begin, count);
  ForEachRowBlock(keys, dim, thread.rows,
                  [&](int32_t first, const float* rows, int64_t stride, int32_t rows_count) {
                    Features(layer, rows, stride, rows_count, KeyMap(layer, kv_head),
                             thread.scratch, features + int64_t{first} * m, m);
                  });
  for (int32_t done = 0; done < count;) {
    const int32_t slot = (begin + done) % layer.v_ring_rows;
    const int32_t run = std::min(count - done, layer.v_ring_rows - slot);
    const RowRange values =
        RingRows(layer, state.ring_v, layer.v_ring_rows, kv_head, begin + done, run);
    ForEachRowBlock(values, dim, thread.rows,
                    [&](int32_t first, const float* rows, int64_t stride, int32_t rows_count) {
                      WeightedSums({features + int64_t{done + first} * m, m, 1}, rows, stride,
                                   rows_count, sums, m, dim);
                    });
    done += run;
  }
  for (int32_t r = 0; r < count; ++r) {
    for (int32_t i = 0; i < m; ++i) feature_sums[i] += features[int64_t{r} * m + i];
  }

  const bool first = group == 0;  // Nothing was folded before: S is undefined.
  const float decay = form.decay ? layer.decay[kv_head] : 1.0f;
  const auto merge = [&](float* total, const float* added, int64_t count) {
    for (int64_t i = 0; i < count; ++i) total[i] = (first ? 0.0f : decay * total[i]) + added[i];
  };
  merge(state.s + int64_t{kv_head} * m * dim, sums, int64_t{m} * dim);
  if (form.has_normaliser()) merge(state.z + int64_t{kv_head} * m, feature_sums, m);
}

}  // namespace treeline::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace treeline::cpu {
namespace {

HWY_EXPORT(PrepareKeys);
HWY_EXPORT(Attend);
HWY_EXPORT(FoldGroup);

void StoreRow(const AttentionLayer& layer, void* rows, int64_t row, const float* values) {
  const int32_t dim = layer.head_dim;
  if (layer.state_type == StateType::kF32) {
    std::copy_n(values, dim, static_cast<float*>(rows) + row * dim);
  } else {
    uint16_t* out = static_cast<uint16_t*>(rows) + row * dim;
    for (int32_t i = 0; i < dim; ++i) out[i] = FloatToBf16(values[i]);
  }
}

void CommitHead(const CommitParams& params, int32_t kv_head, AttentionWorkspace::Thread& thread) {
  const AttentionLayer& layer = *params.layer;
  const AttentionForm& form = layer.form;
  const LayerState& state = params.state;
  for (int32_t i = 0; i < params.num_rows; ++i) {
    const int64_t row = params.rows == nullptr ? i : params.rows[i];
    const float* k = params.k + row * params.kv_stride + kv_head * layer.head_dim;
    const float* v = params.v + row * params.kv_stride + kv_head * layer.head_dim;
    const int32_t position = params.length + i;
    const bool is_sink = form.has_groups() && position < form.sinks;
    const int64_t k_row = is_sink
                              ? int64_t{kv_head} * form.sinks + position
                              : int64_t{kv_head} * layer.k_ring_rows + position % layer.k_ring_rows;
    const int64_t v_row =
        is_sink ? k_row : int64_t{kv_head} * layer.v_ring_rows + position % layer.v_ring_rows;
    StoreRow(layer, is_sink ? state.sink_k : state.ring_k, k_row, k);
    StoreRow(layer, is_sink ? state.sink_v : state.ring_v, v_row, v);
    if (form.has_linear() && (position + 1) % form.group_size == 0) {
      HWY_DYNAMIC_DISPATCH(FoldGroup)(layer, state, position + 1, kv_head, thread);
    }
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

// The queries of one segment and KV head, and their keys.
struct HeadTask {
  const Segment* segment;
  int32_t kv_head;
  int32_t num_queries;
  float* keys;  // What PrepareKeys makes; null where the form needs nothing of it.
};

void CommitSegment(const AttentionParams& params, const HeadTask& task,
                   AttentionWorkspace::Thread& thread) {
  const Segment& segment = *task.segment;
  if (!segment.tree->commit) return;
  CommitParams commit;
  commit.layer = params.layer;
  commit.state = segment.tree->state;
  commit.length = segment.length;
  commit.k = params.k + int64_t{segment.first_row} * params.kv_stride;
  commit.v = params.v + int64_t{segment.first_row} * params.kv_stride;
  commit.kv_stride = params.kv_stride;
  commit.num_rows = segment.num_rows;
  CommitHead(commit, task.kv_head, thread);
}

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

// One block of queries: all of it in one task. This is decoding.
void RunWhole(const AttentionParams& params, const HeadTask& task,
              AttentionWorkspace::Thread& thread) {
  if (task.keys != nullptr) Prepare(params, task, 0, task.segment->num_columns(), thread);
  AttendBlock(params, task, 0, thread);
  CommitSegment(params, task, thread);
}

// Many blocks: the keys first, then the blocks, then the state, each by all threads.
void RunInPhases(const AttentionParams& params, const std::vector<HeadTask>& tasks,
                 AttentionWorkspace& workspace, ThreadPool& pool) {
  struct Part {
    const HeadTask* task;
    int32_t begin;
  };
  std::vector<Part> key_parts, blocks;
  for (const HeadTask& task : tasks) {
    for (int32_t c = 0; task.keys != nullptr && c < task.segment->num_columns(); c += kRowBlock) {
      key_parts.push_back({&task, c});
    }
    for (int32_t q = 0; q < task.num_queries; q += kQueryBlock) blocks.push_back({&task, q});
  }
  pool.ParallelFor(static_cast<int64_t>(key_parts.size()), [&](int64_t i, int32_t thread) {
    const auto [task, begin] = key_parts[i];
    const int32_t end = std::min(begin + kRowBlock, task->segment->num_columns());
    Prepare(params, *task, begin, end, workspace.per_thread[thread]);
  });
  pool.ParallelFor(static_cast<int64_t>(blocks.size()), [&](int64_t i, int32_t thread) {
    AttendBlock(params, *blocks[i].task, blocks[i].begin, workspace.per_thread[thread]);
  });
  pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i, int32_t thread) {
    CommitSegment(params, tasks[i], workspace.per_thread[thread]);
  });
}

}  // namespace

void Attention(const AttentionParams& params, AttentionWorkspace& workspace, ThreadPool& pool) {
  const AttentionLayer& layer = *params.layer;
  std::vector<int32_t> done(params.num_trees, 0);
  for (;;) {
    const std::vector<Segment> segments = NextSegments(params, done);
    if (segments.empty()) return;
    const size_t heads = segments.size() * layer.kv_heads;
    if (workspace.keys.size() < heads) workspace.keys.resize(heads);

    std::vector<HeadTask> small, large;
    for (const Segment& segment : segments) {
      const bool needs_keys =
          layer.form.local == Local::kRelu2 || LinearEnd(layer.form, segment) > segment.k_begin;
      const int32_t queries = segment.num_rows * (layer.heads / layer.kv_heads);
      for (int32_t kv_head = 0; kv_head < layer.kv_heads; ++kv_head) {
        HeadTask task = {&segment, kv_head, queries, nullptr};
        if (needs_keys) {
          task.keys = workspace.keys[small.size() + large.size()].Resize(
              int64_t{segment.num_columns()} * (1 + layer.feature_dim()));
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
  pool.ParallelFor(params.layer->kv_heads, [&](int64_t kv_head, int32_t thread) {
    CommitHead(params, static_cast<int32_t>(kv_head), workspace.per_thread[thread]);
  });
}

}  // namespace treeline::cpu
#endif  // HWY_ONCE
