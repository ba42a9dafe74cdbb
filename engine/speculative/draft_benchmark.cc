// The host's time for the guesses of one sequence, part by part: while it guesses, a GPU waits. The
// argument is the nodes of the tree. Four heads guess 32 tokens each, and what they and the token
// pairs look like is as of the default model: probabilities fall as those of words do, and a few
// first tokens have thousands of pairs.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "engine/speculative/draft_tree_builder.h"
#include "engine/speculative/head_guesses.h"
#include "engine/speculative/ngram_drafter.h"
#include "engine/speculative/token_pairs.h"

namespace treeline {
namespace {

constexpr int32_t kVocabSize = 49'152;
constexpr int32_t kContext = 512;
constexpr int32_t kMaxDepth = 16;
constexpr int32_t kNumHeads = 4;
// Steps that differ: one alone would be learned by the processor's branch predictor.
constexpr size_t kSteps = 256;

// Token 1 is the most frequent one, and so on: the frequency falls with the rank.
int32_t RandomToken(std::mt19937& bits) {
  std::uniform_real_distribution<double> uniform;
  return static_cast<int32_t>(std::pow(kVocabSize, uniform(bits))) - 1;
}

TokenPairs RandomPairs() {
  std::mt19937 bits(1);
  std::uniform_real_distribution<float> score(-1, 6);
  std::vector<int32_t> starts = {0}, seconds;
  std::vector<float> scores;
  for (int32_t first = 0; first < kVocabSize; ++first) {
    std::set<int32_t> row;
    for (int i = 0; i < 14'000 / (first + 3); ++i) row.insert(RandomToken(bits));
    for (const int32_t second : row) {
      seconds.push_back(second);
      scores.push_back(score(bits));
    }
    starts.push_back(static_cast<int32_t>(seconds.size()));
  }
  return *TokenPairs::Create(std::move(starts), std::move(seconds), std::move(scores), "random");
}

HeadGuesses RandomHeads(std::mt19937& bits) {
  std::uniform_real_distribution<float> steepness(0.8f, 2.0f);
  HeadGuesses heads(kNumHeads);
  for (RankedTokens& head : heads) {
    std::set<int32_t> tokens;
    while (tokens.size() < size_t{kGuessesWithPairs}) tokens.insert(RandomToken(bits));
    std::vector<int32_t> order(tokens.begin(), tokens.end());
    std::shuffle(order.begin(), order.end(), bits);
    const float slope = steepness(bits);
    for (const int32_t token : order) {
      head.emplace_back(token, -1 - slope * std::log(static_cast<float>(head.size() + 1)));
    }
  }
  return heads;
}

// One step's guesses.
struct Step {
  HeadGuesses heads;
  int32_t known;
  Guesses guesses;  // LikeliestPaths of them.
};

std::vector<Step> RandomSteps(int32_t num_guesses, const TokenPairs& pairs) {
  std::mt19937 bits(2);
  std::vector<Step> steps;
  for (size_t i = 0; i < kSteps; ++i) {
    Step& step = steps.emplace_back(Step{RandomHeads(bits), RandomToken(bits), {}});
    step.guesses = LikeliestPaths(step.heads, num_guesses, step.known, &pairs);
  }
  return steps;
}

// Text that quotes itself at places.
std::vector<int32_t> RandomText() {
  std::mt19937 bits(3);
  std::vector<int32_t> text;
  while (text.size() < kContext) {
    if (text.size() < 64 || bits() % 16 > 0) {
      text.push_back(RandomToken(bits));
      continue;
    }
    const size_t from = bits() % (text.size() - 16), length = 4 + bits() % 12;
    for (size_t i = from; i < from + length; ++i) text.push_back(text[i]);
  }
  return text;
}

void HeadPaths(benchmark::State& state) {
  const auto num_guesses = static_cast<int32_t>(state.range(0)) - 1;
  const TokenPairs pairs = RandomPairs();
  const std::vector<Step> steps = RandomSteps(num_guesses, pairs);
  size_t i = 0;
  for (auto _ : state) {
    const Step& step = steps[i++ % kSteps];
    benchmark::DoNotOptimize(LikeliestPaths(step.heads, num_guesses, step.known, &pairs));
  }
}
BENCHMARK(HeadPaths)->ArgName("nodes")->Arg(16)->Arg(64);

void Ngrams(benchmark::State& state) {
  const std::vector<int32_t> text = RandomText();
  NgramDrafter drafter(kMaxDepth);
  drafter.Append(text);
  size_t i = 0;
  for (auto _ : state) {
    const int32_t next = text[i++ % text.size()];
    drafter.Append({&next, 1});
    DraftTreeBuilder tree(next, kMaxDepth);
    drafter.Propose(0, tree);
    benchmark::DoNotOptimize(tree.num_guesses());
  }
}
// Text that stays the size it is about.
BENCHMARK(Ngrams)->Iterations(4 * kContext);

// What heads and n-grams guess, from lists of guesses to a tree.
void Tree(benchmark::State& state) {
  const auto num_guesses = static_cast<int32_t>(state.range(0)) - 1;
  const TokenPairs pairs = RandomPairs();
  const std::vector<Step> steps = RandomSteps(num_guesses, pairs);
  const std::vector<int32_t> text = RandomText();
  std::vector<NgramDrafter> drafters;
  for (size_t i = 0; i < kSteps; ++i) {
    drafters.emplace_back(kMaxDepth).Append(std::span(text).first(text.size() - i));
  }
  size_t i = 0;
  for (auto _ : state) {
    const size_t s = i++ % kSteps;
    DraftTreeBuilder tree(0, kMaxDepth);
    drafters[s].Propose(0, tree);
    const int32_t first = tree.num_guesses() + 1;
    tree.Add(steps[s].guesses);
    drafters[s].Propose(first, tree);
    benchmark::DoNotOptimize(tree.PathProbabilities());
    benchmark::DoNotOptimize(tree.Build(num_guesses));
  }
}
BENCHMARK(Tree)->ArgName("nodes")->Arg(16)->Arg(64);

}  // namespace
}  // namespace treeline
