// SentencePiece's unigram language model: of all ways to cut a text into pieces, the one
// whose scores add up to most. Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_UNIGRAM_H_
#define TREELINE_ENGINE_TEXT_UNIGRAM_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/byte_trie.h"
#include "engine/text/sentencepiece_model.h"

namespace treeline {

class Unigram {
 public:
  // The best way to reach each byte of a text; Encode's own, kept between pieces of a text.
  struct Step {
    int32_t id;
    uint32_t begin;  // Of the piece that ends here.
    float score;     // Of all pieces up to here.
  };
  using Scratch = std::vector<Step>;

  // INVALID_ARGUMENT where there is no piece for unknown characters.
  static StatusOr<Unigram> FromModel(const SentencePieceModel& model);

  // Appends the ids of `text`. A run of characters that no piece covers becomes its bytes, with
  // byte fallback, or one unknown. O(n). REQUIRES: `text` is UTF-8, text.size() < UINT32_MAX.
  void Encode(std::string_view text, Scratch* scratch, std::vector<int32_t>* ids) const;

  // The id of a piece that text can become.
  std::optional<int32_t> Find(std::string_view piece) const;

 private:
  static constexpr int32_t kNone = -1;

  ByteTrie trie_;
  std::vector<float> scores_;       // By id.
  std::vector<bool> user_defined_;  // By id.
  float min_score_ = 0;             // Of normal pieces.
  float max_score_ = 0;
  int32_t unknown_id_ = kNone;
  std::array<int32_t, 256> byte_ids_;  // kNone without byte fallback.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_UNIGRAM_H_
