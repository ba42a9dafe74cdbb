// Byte-level byte-pair encoding: the vocabulary and the merges of tokenizer.json's
// "model", applied to one piece of text. Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_BPE_H_
#define TREELINE_ENGINE_TEXT_BPE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class Bpe {
 public:
  // Buffers of Encode, for its own use, kept between pieces to save allocations. One per thread.
  struct Scratch {
    struct Symbol {
      int32_t id;  // kNone once merged into the symbol on its left.
      int32_t previous;
      int32_t next;
    };
    std::vector<Symbol> symbols;       // A linked list in an array; links are indices or kNone.
    std::vector<uint64_t> candidates;  // A heap of possible merges: rank << 32 | left symbol.
  };

  // From tokenizer.json's "model". No text encodes to one of `special_ids`, but for the
  // unk_token: a vocabulary whose merges or bytes make one is refused, as is all else that is
  // malformed or not supported.
  static StatusOr<Bpe> FromJson(const Json& model, const std::unordered_set<int32_t>& special_ids);

  // Appends the ids of `piece`: again and again the pair of neighbours with the lowest rank, the
  // leftmost of equals, becomes one token. O(n log n). Bytes that the vocabulary lacks become its
  // unk_token, or nothing where it has none. REQUIRES: piece.size() <= INT32_MAX.
  void Encode(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const;

  // The bytes that each id stands for, empty for ids that are not in use. Moved out: call once.
  std::vector<std::string> TakeTokenBytes() { return std::move(token_bytes_); }
  // The id whose token stands for exactly these bytes; special ids are not found.
  std::optional<int32_t> Find(std::string_view bytes) const;

 private:
  static constexpr int32_t kNone = -1;
  struct Merge {
    int32_t left;
    int32_t right;
    int32_t result;
  };
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  // A token's id by its spelling in the file, where byte 0x20 is "Ġ".
  using Spellings = std::unordered_map<std::string_view, int32_t>;

  Status LoadVocab(const Json& vocab, const std::unordered_set<int32_t>& special_ids,
                   Spellings* spellings);
  Status LoadMerges(const Json& merges, const std::unordered_set<int32_t>& special_ids,
                    const Spellings& spellings);
  // The id of every single byte, or the model's unk_token.
  Status LoadBytes(const Json& model, const Spellings& spellings);
  // Puts the merge of `left` with its neighbour, if there is one, on the heap.
  void Propose(int32_t left, Scratch* scratch) const;
  void Apply(const Merge& merge, int32_t left, Scratch* scratch) const;

  std::vector<std::string> token_bytes_;                                 // Until they are taken.
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;  // By bytes.
  std::vector<Merge> merges_;                                            // By rank.
  std::unordered_map<uint64_t, uint32_t> ranks_;                         // By left << 32 | right.
  std::array<int32_t, 256> byte_ids_;
  bool ignore_merges_ = false;  // Pieces that are tokens stay whole, whatever the merges say.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_BPE_H_
