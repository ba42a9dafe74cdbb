#include "engine/batch.h"

namespace treeline {

int32_t Batch::AddChain(int32_t slot, std::span<const int32_t> tokens) {
  TREELINE_CHECK(!tokens.empty());
  const int32_t first_row = num_tokens();
  token_ids.insert(token_ids.end(), tokens.begin(), tokens.end());
  for (size_t i = 0; i < tokens.size(); ++i) parents.push_back(static_cast<int32_t>(i) - 1);
  tree_offsets.push_back(num_tokens());
  slots.push_back(slot);
  acceptance.push_back(Acceptance::kKnown);
  return first_row;
}

int32_t Batch::AddTree(int32_t slot, const TokenTree& tree) {
  const int32_t first_row = num_tokens();
  token_ids.insert(token_ids.end(), tree.tokens().begin(), tree.tokens().end());
  parents.insert(parents.end(), tree.parents().begin(), tree.parents().end());
  tree_offsets.push_back(num_tokens());
  slots.push_back(slot);
  acceptance.push_back(Acceptance::kLater);
  return first_row;
}

}  // namespace treeline
