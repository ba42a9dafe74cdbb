// One attention, many ways to compute it. For random legal forms, a sequence's
// outputs must be the same whether it is evaluated at once, in chunks, token by token,
// from a restored snapshot, or as accepted paths of random trees: all against the
// definition in double (kernels/reference), and the committed ways bit for bit against
// each other. State memory starts as NaN, so reading what was never written shows.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/state/state_layout.h"
#include "kernels/cpu/attention.h"
#include "kernels/params.h"
#include "kernels/reference/attention.h"
#include "tests/attention_cases.h"

namespace treeline {
namespace {

// max|difference| / max|reference| in fp32 against double.
constexpr double kTolerance = 2e-6;

// A state and the kernels that drive it.
class Sequence {
 public:
  Sequence(const AttentionLayer& layer, int32_t threads = 2)
      : layer_(layer),
        layout_({layer}),
        pool_(threads),
        workspace_(threads),
        memory_(layout_.bytes() / sizeof(float) + 16, std::numeric_limits<float>::quiet_NaN()) {}

  int32_t length() const { return length_; }
  LayerState state() { return layout_.At(base(), 0); }

  // Attends to and commits rows [first, first + n) of a longer sequence.
  std::vector<float> Chain(const Rows& rows, int32_t first, int32_t n) {
    std::vector<int32_t> parents(n);
    for (int32_t i = 0; i < n; ++i) parents[i] = i - 1;
    std::vector<float> out = Run(rows, first, parents, true);
    length_ += n;
    return out;
  }

  // Attends to a draft tree; the state is only read.
  std::vector<float> Tree(const Rows& rows, const std::vector<int32_t>& parents) {
    return Run(rows, 0, parents, false);
  }

  void Commit(const Rows& rows, const std::vector<int32_t>& path) {
    CommitTree tree;
    tree.state = state();
    tree.length = length_;
    tree.rows = path.data();
    tree.num_rows = static_cast<int32_t>(path.size());
    CommitParams params;
    params.layer = &layer_;
    params.k = rows.k.data();
    params.v = rows.v.data();
    params.kv_stride = layer_.kv_heads * layer_.head_dim;
    params.trees = &tree;
    params.num_trees = 1;
    cpu::Commit(params, workspace_, pool_);
    length_ += tree.num_rows;
  }

  // Takes over another sequence's state by its live bytes alone.
  void RestoreFrom(Sequence& other) {
    std::fill(memory_.begin(), memory_.end(), std::numeric_limits<float>::quiet_NaN());
    for (const ByteRange& range : layout_.LiveRanges(other.length_)) {
      std::memcpy(base() + range.offset, other.base() + range.offset, range.size);
    }
    length_ = other.length_;
  }

 private:
  std::byte* base() {
    void* pointer = memory_.data();
    size_t space = memory_.size() * sizeof(float);
    return static_cast<std::byte*>(std::align(64, layout_.bytes(), pointer, space));
  }

  std::vector<float> Run(const Rows& rows, int32_t first, const std::vector<int32_t>& parents,
                         bool commit) {
    const int32_t n = static_cast<int32_t>(parents.size());
    const int32_t q_size = layer_.heads * layer_.head_dim;
    const int32_t kv_size = layer_.kv_heads * layer_.head_dim;
    std::vector<float> out(size_t(n) * q_size);
    AttentionTree tree;
    tree.state = state();
    tree.length = length_;
    tree.num_rows = n;
    tree.parents = parents.data();
    tree.commit = commit;
    AttentionParams params;
    params.layer = &layer_;
    params.q = rows.q.data() + int64_t{first} * q_size;
    params.k = rows.k.data() + int64_t{first} * kv_size;
    params.v = rows.v.data() + int64_t{first} * kv_size;
    params.out = out.data();
    params.q_stride = q_size;
    params.kv_stride = kv_size;
    params.trees = &tree;
    params.num_trees = 1;
    cpu::Attention(params, workspace_, pool_);
    return out;
  }

  const AttentionLayer& layer_;
  StateLayout layout_;
  ThreadPool pool_;
  cpu::AttentionWorkspace workspace_;
  std::vector<float> memory_;
  int32_t length_ = 0;
};

// The first index whose bits differ; -1 for none.
int64_t FirstDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) return static_cast<int64_t>(i);
  }
  return -1;
}

// Lengths where trees are tried: the start, and around every fold.
std::vector<int32_t> Lengths(const AttentionForm& form, int32_t max_length) {
  std::vector<int32_t> lengths;
  for (int32_t n = 0; n <= form.sinks + 4; ++n) lengths.push_back(n);
  const int32_t period = form.has_groups() ? form.group_size : 64;
  for (int32_t fold = period; fold < max_length; fold += period) {
    for (int32_t n = fold - 8; n <= fold + 8; ++n) {
      if (n > lengths.back() && n < max_length) lengths.push_back(n);
    }
  }
  return lengths;
}

class AttentionProperty : public testing::TestWithParam<int32_t> {};

// The committed ways, over one sequence.
void CheckCommittedWays(const AttentionLayer& layer, int32_t n, std::mt19937& rng) {
  const Rows rows(layer, n, rng);
  const auto expected = reference::Attention(layer, n, rows.q.data(), rows.k.data(), rows.v.data());

  Sequence whole(layer);
  const std::vector<float> at_once = whole.Chain(rows, 0, n);
  EXPECT_LE(Error(at_once, expected), kTolerance);

  // Token by token with one thread, and in random chunks with a snapshot between any two:
  // the same bits.
  Sequence stepwise(layer, 1), chunked(layer), restored(layer);
  std::vector<float> steps, chunks;
  for (int32_t i = 0; i < n; ++i) {
    const auto row = stepwise.Chain(rows, i, 1);
    steps.insert(steps.end(), row.begin(), row.end());
  }
  EXPECT_EQ(FirstDifference(steps, at_once), -1);
  for (int32_t i = 0; i < n;) {
    const int32_t size = std::min(
        n - i, std::uniform_int_distribution<int32_t>(1, 2 * layer.form.group_size + 9)(rng));
    restored.RestoreFrom(chunked);
    const auto expected_chunk = chunked.Chain(rows, i, size);
    EXPECT_EQ(FirstDifference(restored.Chain(rows, i, size), expected_chunk), -1)
        << "restored at " << i;
    chunks.insert(chunks.end(), expected_chunk.begin(), expected_chunk.end());
    i += size;
  }
  EXPECT_EQ(FirstDifference(chunks, at_once), -1);

  if (layer.form.has_linear() && n / layer.form.group_size >= layer.form.lag()) {
    const auto folded = reference::Fold(layer, n, rows.k.data(), rows.v.data());
    const float* s = whole.state().s;
    EXPECT_LE(Error(std::vector<float>(s, s + folded.s.size()), folded.s), kTolerance);
    if (layer.form.has_normaliser()) {
      const float* z = whole.state().z;
      EXPECT_LE(Error(std::vector<float>(z, z + folded.z.size()), folded.z), kTolerance);
    }
  }
}

// Trees at these lengths: every fifth node from the last against the definition over context and
// path; then the path to a random node is committed and decoding goes on.
void CheckTrees(const AttentionLayer& layer, const std::vector<int32_t>& lengths,
                std::mt19937& rng) {
  const Rows context(layer, lengths.back(), rng);
  for (const int32_t length : lengths) {
    Sequence prefix(layer);
    Rows history;
    if (length > 0) prefix.Chain(context, 0, length);
    for (int32_t i = 0; i < length; ++i) history.Append(layer, context, i);

    const std::vector<int32_t> parents = RandomTree(rng);
    const int32_t nodes = static_cast<int32_t>(parents.size());
    const Rows draft(layer, nodes, rng);
    const std::vector<float> out = prefix.Tree(draft, parents);
    const int32_t row_size = layer.heads * layer.head_dim;
    std::vector<float> actual;
    std::vector<double> expected;
    const auto compare = [&](std::span<const float> row, const Rows& rows, int32_t n) {
      actual.insert(actual.end(), row.begin(), row.end());
      const std::vector<double> last =
          reference::LastRow(layer, n, rows.q.data(), rows.k.data(), rows.v.data());
      expected.insert(expected.end(), last.begin(), last.end());
    };
    for (int32_t node = nodes - 1; node >= 0; node -= 5) {
      Rows path_rows = history;
      const std::vector<int32_t> path = PathTo(parents, node);
      for (const int32_t i : path) path_rows.Append(layer, draft, i);
      compare(std::span<const float>(out).subspan(node * row_size, row_size), path_rows,
              length + static_cast<int32_t>(path.size()));
    }

    const auto accepted =
        PathTo(parents, std::uniform_int_distribution<int32_t>(0, nodes - 1)(rng));
    prefix.Commit(draft, accepted);
    for (const int32_t i : accepted) history.Append(layer, draft, i);
    const Rows next(layer, 1, rng);
    history.Append(layer, next, 0);
    const std::vector<float> next_out = prefix.Chain(next, 0, 1);
    compare(next_out, history, prefix.length());
    EXPECT_LE(Error(actual, expected), kTolerance)
        << "a tree of " << nodes << " at length " << length << ", then a token after committing "
        << accepted.size() << " of it";
  }
}

TEST_P(AttentionProperty, EveryWayComputesTheDefinition) {
  const int32_t g = GetParam();
  std::mt19937 rng(1000 + g);
  const int32_t max_length = std::min(3 * g + 20, 410);
  for (const int32_t w : {1, g - 1, g, g + 1, 2 * g}) {
    if (w < 1) continue;
    for (int trial = 0; trial < (g <= 8 ? 12 : 4); ++trial) {
      AttentionForm form = RandomForm(g, w, rng);
      if (form.feature_map == FeatureMap::kHedgehog) {
        form.feature_size = Pick(rng, {0, 2, 6, 16, 24, 32});
      }
      // Below, at and past the widest vectors' multiples.
      const int32_t head_dim = Pick(rng, {8, 24, 64});
      SCOPED_TRACE(Describe(form) + fmt::format(", head_dim {}", head_dim));
      RandomLayer random(form, 0, rng, head_dim);
      if (trial % 4 == 3) random.layer.state_type = StateType::kBF16;
      CheckCommittedWays(random.layer, max_length, rng);
      CheckTrees(random.layer, Lengths(random.layer.form, max_length), rng);
      if (testing::Test::HasFailure()) return;  // One form's failures are enough to read.
    }
  }
}

INSTANTIATE_TEST_SUITE_P(GroupSizes, AttentionProperty, testing::Values(1, 3, 8, 64, 128));

// The form that ships: every length around the folds of g = w = 128.
TEST(AttentionProperty, ShippedFormAroundEveryFold) {
  const AttentionForm form = ShippedForm(128);
  std::mt19937 rng(7);
  const RandomLayer random(form, 0, rng, 64);
  CheckCommittedWays(random.layer, 400, rng);
  CheckTrees(random.layer, Lengths(random.layer.form, 400), rng);
}

// Rows alone, many of them: rings that wrap, and trees on both sides of it.
TEST(AttentionProperty, WideWindowsWithoutS) {
  AttentionForm form;
  form.group_size = 64;
  form.window_size = 66 * 64;
  form.sinks = 4;
  form.conv_kernel = 63;
  std::mt19937 rng(10);
  for (const StateType type : {StateType::kF32, StateType::kBF16}) {
    RandomLayer random(form, 0, rng);
    random.layer.state_type = type;
    EXPECT_EQ(random.layer.k_ring_rows, 66 * 64);
    CheckCommittedWays(random.layer, form.window_size + 150, rng);
    CheckTrees(
        random.layer,
        {form.window_size - 5, form.window_size, form.window_size + 60, form.window_size + 64 + 63},
        rng);
  }
}

TEST(AttentionProperty, SoftmaxWithoutGroups) {
  std::mt19937 rng(8);
  const RandomLayer random(AttentionForm(), 300, rng);
  CheckCommittedWays(random.layer, 200, rng);
  CheckTrees(random.layer, Lengths(random.layer.form, 150), rng);
}

// What the tolerance must catch: each fault the smallest of its kind.
class PlantedFault : public testing::Test {
 protected:
  PlantedFault() : rng_(9) {
    AttentionForm form;
    form.group_size = 8;
    form.window = Window::kSliding;
    form.window_size = 8;
    form.sinks = 2;
    form.decay = true;
    form.feature_map = FeatureMap::kHedgehog;
    form.denominator = Denominator::kJoint;
    form.conv_kernel = 7;
    good_.emplace(form, 0, rng_);
  }

  // The error of a sequence computed with `faulty` against the definition with the good layer.
  double ErrorWith(const AttentionLayer& faulty) {
    const Rows rows(good_->layer, 60, rng_);
    Sequence sequence(faulty);
    return Error(sequence.Chain(rows, 0, 60), reference::Attention(good_->layer, 60, rows.q.data(),
                                                                   rows.k.data(), rows.v.data()));
  }

  std::mt19937 rng_;
  std::optional<RandomLayer> good_;
};

TEST_F(PlantedFault, NoFaultPasses) { EXPECT_LE(ErrorWith(good_->layer), kTolerance); }

TEST_F(PlantedFault, OneTapOffFails) {
  AttentionLayer faulty = good_->layer;
  std::vector<float> taps = good_->taps;
  std::swap(taps[0], taps[1]);
  faulty.conv_taps = taps.data();
  EXPECT_GT(ErrorWith(faulty), 100 * kTolerance);
}

TEST_F(PlantedFault, OneWindowRowOffFails) {
  AttentionLayer faulty = good_->layer;
  faulty.form.window_size = 7;
  EXPECT_GT(ErrorWith(faulty), 100 * kTolerance);
}

TEST_F(PlantedFault, OneSinkOffFails) {
  AttentionLayer faulty = good_->layer;
  faulty.form.sinks = 1;
  EXPECT_GT(ErrorWith(faulty), 100 * kTolerance);
}

TEST_F(PlantedFault, OneDecayStepOffFails) {
  const Rows rows(good_->layer, 60, rng_);
  Sequence sequence(good_->layer);
  sequence.Chain(rows, 0, 59);
  float* s = sequence.state().s;
  const int32_t size = good_->layer.feature_dim() * good_->layer.head_dim;
  for (int32_t i = 0; i < size; ++i) s[i] *= good_->layer.decay[0];
  const auto expected =
      reference::LastRow(good_->layer, 60, rows.q.data(), rows.k.data(), rows.v.data());
  EXPECT_GT(Error(sequence.Chain(rows, 59, 1), expected), 100 * kTolerance);
}

TEST_F(PlantedFault, OneRingRowOffFails) {
  const Rows rows(good_->layer, 60, rng_);
  Sequence sequence(good_->layer);
  sequence.Chain(rows, 0, 59);
  float* row = static_cast<float*>(sequence.state().ring_v) +
               (58 % good_->layer.v_ring_rows) * good_->layer.head_dim;
  for (int32_t i = 0; i < good_->layer.head_dim; ++i) row[i] = rows.v[i];
  const auto expected =
      reference::LastRow(good_->layer, 60, rows.q.data(), rows.k.data(), rows.v.data());
  EXPECT_GT(Error(sequence.Chain(rows, 59, 1), expected), 100 * kTolerance);
}

}  // namespace
}  // namespace treeline
