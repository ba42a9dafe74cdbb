#include "engine/speculative/token_tree.h"

namespace treeline {

StatusOr<TokenTree> TokenTree::Create(std::vector<int32_t> tokens, std::vector<int32_t> parents) {
  if (tokens.size() != parents.size()) {
    return InvalidArgument("token tree: {} tokens but {} parents", tokens.size(), parents.size());
  }
  if (tokens.empty() || tokens.size() > kMaxNodes) {
    return InvalidArgument("token tree: {} nodes; it takes 1 to {}", tokens.size(), kMaxNodes);
  }
  for (size_t i = 0; i < parents.size(); ++i) {
    const bool valid =
        i == 0 ? parents[i] == -1 : parents[i] >= 0 && parents[i] < static_cast<int32_t>(i);
    if (!valid) {
      return InvalidArgument(
          "token tree: node {} has parent {}; node 0 takes -1, others an earlier node", i,
          parents[i]);
    }
  }
  return TokenTree(std::move(tokens), std::move(parents));
}

}  // namespace treeline
