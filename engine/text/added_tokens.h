// The tokens that stand beside the model's vocabulary and are found in text as they
// are written, before anything else is done to it: <|im_end|> and its like.
// Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_ADDED_TOKENS_H_
#define TREELINE_ENGINE_TEXT_ADDED_TOKENS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/byte_trie.h"
#include "engine/text/normalizer.h"

namespace treeline {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;     // A mark, not text.
  bool lstrip = false;      // Takes the white space before it.
  bool rstrip = false;      // Takes the white space after it.
  bool normalized = false;  // Looked for after normalization, so where no other token was found.
};

class AddedTokens {
 public:
  struct Segment {
    std::string_view text;
    const AddedToken* token;  // Null: text still to be tokenized.
    bool at_start;            // Nothing stands before it.
  };

  // INVALID_ARGUMENT, beginning with `where`, for an id or content that is given twice. The
  // contents of tokens that are `normalized` go through the normalizer, too.
  static StatusOr<AddedTokens> Create(std::vector<AddedToken> tokens, const Normalizer& normalizer,
                                      const std::string& where);
  // From tokenizer.json's "added_tokens", which may be null.
  static StatusOr<AddedTokens> FromJson(const Json& json, const Normalizer& normalizer);

  // Cuts `text` into added tokens and what lies between, normalized and never empty: from left to
  // right the longest token at each place. Special tokens are text unless parse_special. A
  // segment's text may be used within the call only. Stops at the first error of `visit`.
  // REQUIRES: `normalizer` is the one of Create.
  Status Split(std::string_view text, bool parse_special, const Normalizer& normalizer,
               const std::function<Status(const Segment&)>& visit) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  std::vector<Segment> SplitBy(const ByteTrie& trie, std::string_view text,
                               bool parse_special) const;

  std::vector<AddedToken> tokens_;
  ByteTrie raw_;  // Their values are indices of tokens_.
  ByteTrie normalized_;
};

// One added token as tokenizer.json writes it, but for its id: tokenizer_config.json has that
// elsewhere. INVALID_ARGUMENT for what is malformed or not supported (single_word).
StatusOr<AddedToken> ReadAddedToken(const Json& json, const std::string& where);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_ADDED_TOKENS_H_
