// One step's work: a forest, one small tree of tokens per sequence, each rooted at
// that sequence's committed state. A prefill chunk is a chain, plain decoding a
// single node, speculation a draft tree; everything below sees only trees.
#ifndef TREELINE_ENGINE_BATCH_H_
#define TREELINE_ENGINE_BATCH_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/sampling/params.h"
#include "engine/sampling/random.h"
#include "engine/speculative/token_tree.h"

namespace treeline {

// Whether a tree's tokens belong to the sequence for certain.
enum class Acceptance {
  kKnown,  // Prompt tokens and sampled tokens: committed inside the step.
  kLater,  // Draft tokens: nothing is committed until Engine::Commit names the path.
};

// What is wanted at one token: nothing unless asked for. Pointers must stay valid for the step.
struct RowRequest {
  int32_t row = 0;  // Index into Batch::token_ids.

  // Where set, the next token is sampled from this row's distribution.
  const SamplingParams* sampling = nullptr;
  RandomKey random{};
  std::span<const int32_t> prompt{};     // For repetition_penalty.
  std::span<const int32_t> generated{};  // For all three penalties,
  std::span<const int32_t> drafted{};    // as are the draft's tokens from there to this row.
  std::span<const int32_t> banned{};     // Tokens that must not be drawn (min_tokens).
  std::span<const int32_t> guesses{};    // Tokens of which RowResult::typical is wanted.

  std::span<const int32_t> score{};  // Tokens whose log-probabilities are wanted.
  int32_t top_logprobs = 0;          // How many of the most probable tokens are wanted.
};

// All log-probabilities are of the model's own distribution: before bias, penalties and
// temperature.
struct RowResult {
  Status status{};     // Not OK: this row has no result (its logits are not finite); others stand.
  int32_t token = -1;  // The sampled token; -1 where none was asked for.
  float logprob = 0;   // Its log-probability.
  // As RowRequest::guesses: whether each would pass for a draw by Medusa's typical acceptance.
  std::vector<bool> typical{};
  std::vector<float> scores{};                            // As RowRequest::score.
  std::vector<std::pair<int32_t, float>> top_logprobs{};  // Best first; ties by lower id.
};

struct Batch {
  std::vector<int32_t> token_ids;           // [num_tokens]
  std::vector<int32_t> parents;             // [num_tokens] index within the own tree, -1 at node 0
  std::vector<int32_t> tree_offsets = {0};  // [num_sequences + 1]
  std::vector<int32_t> slots;               // [num_sequences] StateSlot::index(), each at most once
  std::vector<Acceptance> acceptance;       // [num_sequences] kKnown only for chains
  std::vector<RowRequest> requests;         // ascending by row, at most one a row

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_sequences() const { return static_cast<int32_t>(slots.size()); }

  // Appends a chain of known tokens (a prompt chunk, or the one token of plain decoding).
  // Returns its first row. REQUIRES: tokens not empty.
  int32_t AddChain(int32_t slot, std::span<const int32_t> tokens);
  // Appends a draft tree. Returns the row of its root.
  int32_t AddTree(int32_t slot, const TokenTree& tree);
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_BATCH_H_
