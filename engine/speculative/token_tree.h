// A tree of candidate tokens hanging from a sequence's committed context. Node 0
// is the root; a parent stands before its children; depth gives the position
// (context length + depth). Immutable, always valid.
#ifndef TREELINE_ENGINE_SPECULATIVE_TOKEN_TREE_H_
#define TREELINE_ENGINE_SPECULATIVE_TOKEN_TREE_H_

#include <cstdint>
#include <vector>

#include "engine/base/status.h"

namespace treeline {

class TokenTree {
 public:
  // A node's ancestors fit one 64-bit word.
  static constexpr int32_t kMaxNodes = 64;

  // INVALID_ARGUMENT unless 1 <= tokens.size() == parents.size() <= kMaxNodes, parents[0] == -1
  // and 0 <= parents[i] < i for every other i.
  static StatusOr<TokenTree> Create(std::vector<int32_t> tokens, std::vector<int32_t> parents);

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::vector<int32_t>& parents() const { return parents_; }

 private:
  TokenTree(std::vector<int32_t> tokens, std::vector<int32_t> parents)
      : tokens_(std::move(tokens)), parents_(std::move(parents)) {}
  std::vector<int32_t> tokens_;
  std::vector<int32_t> parents_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SPECULATIVE_TOKEN_TREE_H_
