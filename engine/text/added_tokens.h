// The tokens that stand beside the model's vocabulary and are found in text as they
// are written, before anything else is done to it: <|im_end|> and its like.
// Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_ADDED_TOKENS_H_
#define TREELINE_ENGINE_TEXT_ADDED_TOKENS_H_

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

struct AddedToken {
  int32_t id;
  std::string content;
  bool special;     // A mark, not text.
  bool lstrip;      // Takes the white space before it.
  bool rstrip;      // Takes the white space after it.
  bool normalized;  // Looked for after normalization, so where no other token was found.
};

class AddedTokens {
 public:
  struct Segment {
    std::string_view text;
    const AddedToken* token;  // Null: text still to be tokenized.
  };

  // From tokenizer.json's "added_tokens", which may be null. INVALID_ARGUMENT for what is
  // malformed, given twice, or not supported (single_word).
  static StatusOr<AddedTokens> FromJson(const Json& json);

  // Cuts `text` into added tokens and what lies between, never empty: from left to right the
  // longest token at each place. Special tokens are text unless parse_special. The segments
  // point into `text` and into this.
  std::vector<Segment> Split(std::string_view text, bool parse_special) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  // Finds the longest of a set of strings that a text begins with.
  class Trie {
   public:
    void Insert(std::string_view key, int32_t value);  // value: an index of tokens_.
    // The token at the start of `text`; null where there is none.
    const AddedToken* Longest(std::string_view text, bool parse_special,
                              const std::vector<AddedToken>& tokens) const;

   private:
    static constexpr int32_t kNoValue = -1;
    std::vector<int32_t> values_{kNoValue};            // By node; the root is 0.
    std::unordered_map<uint64_t, uint32_t> children_;  // By node << 8 | byte.
    std::bitset<256> first_bytes_;                     // Spares most places a lookup.
  };

  void SplitBy(const Trie& trie, std::string_view text, bool parse_special,
               std::vector<Segment>* segments) const;

  std::vector<AddedToken> tokens_;
  Trie raw_;
  Trie normalized_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_ADDED_TOKENS_H_
