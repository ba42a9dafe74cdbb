// Byte-pair encoding: a vocabulary and its merges, applied to one piece of text.
// Immutable after loading; safe from any thread.
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
#include "engine/text/sentencepiece_model.h"

namespace treeline {

class Bpe {
 public:
  // What the tokens are spelled in, and what merging begins with.
  enum class Alphabet {
    kBytes,       // GPT-2's: each byte is spelled as a printable character.
    kCharacters,  // The text's own; tokens for bytes, "<0x0A>", stand in for those without token.
  };

  // Buffers of Encode, for its own use, kept between pieces to save allocations. One per thread.
  struct Scratch {
    struct Symbol {
      int32_t id;  // kNone once merged into the symbol on its left.
      int32_t previous;
      int32_t next;
      uint32_t rank;   // Of the merge with the next symbol, kNoRank where there is none,
      int32_t merged;  // and what it makes.
    };
    std::vector<Symbol> symbols;       // A linked list in an array; links are indices or kNone.
    std::vector<uint64_t> candidates;  // A heap of possible merges: rank << 32 | left symbol.
  };

  // From tokenizer.json's "model". No text encodes to one of `special_ids`, but for the
  // unk_token: a vocabulary whose merges or bytes make one is refused, as is all else that is
  // malformed or not supported.
  static StatusOr<Bpe> FromJson(const Json& model, const std::unordered_set<int32_t>& special_ids,
                                Alphabet alphabet = Alphabet::kBytes);
  // The same over bytes from a GGUF file's lists, tokenizer.ggml.tokens and tokenizer.ggml.merges.
  static StatusOr<Bpe> FromLists(const std::vector<std::string>& tokens,
                                 const std::vector<std::string>& merges,
                                 const std::unordered_set<int32_t>& special_ids,
                                 bool ignore_merges);
  // From SentencePiece's pieces: two neighbours whose text together is a piece are a merge, its
  // rank the order of the piece's score.
  static Bpe FromPieces(const SentencePieceModel& model);

  // Appends the ids of `piece`: again and again the pair of neighbours with the lowest rank, the
  // leftmost of equals, becomes one token. O(n log n). What the vocabulary lacks becomes its
  // unk_token, or nothing where it has none. REQUIRES: piece.size() <= INT32_MAX, and it is UTF-8
  // with Alphabet::kCharacters.
  void Encode(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const;

  // The bytes that each id stands for, empty for ids that are not in use. Moved out: call once.
  std::vector<std::string> TakeTokenBytes() { return std::move(token_bytes_); }
  // The id whose token stands for exactly these bytes; special ids are not found.
  std::optional<int32_t> Find(std::string_view bytes) const;

 private:
  static constexpr int32_t kNone = -1;
  static constexpr uint32_t kNoRank = UINT32_MAX;
  struct Merge {
    uint32_t rank;
    int32_t result;
  };
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  // A token's id by its spelling in the file, where byte 0x20 is "Ġ".
  using Spellings = std::unordered_map<std::string_view, int32_t>;
  // The two sides of a merge, written "a b" or ["a", "b"].
  struct Pair {
    static StatusOr<Pair> FromText(std::string_view text, const std::string& where);
    static StatusOr<Pair> FromJson(const Json& merge, const std::string& where);
    std::string_view left;
    std::string_view right;
  };

  explicit Bpe(Alphabet alphabet) : alphabet_(alphabet) { byte_ids_.fill(kNone); }

  // `where` is the place of the token in the file.
  Status AddToken(std::string_view spelling, int32_t id,
                  const std::unordered_set<int32_t>& special_ids, const std::string& where);
  Status AddMerge(const Pair& pair, uint32_t rank, const Spellings& spellings,
                  const std::unordered_set<int32_t>& special_ids, const std::string& where);
  Status LoadVocab(const Json& vocab, const std::unordered_set<int32_t>& special_ids,
                   Spellings* spellings);
  Status LoadMerges(const Json& merges, const std::unordered_set<int32_t>& special_ids,
                    const Spellings& spellings);
  Status LoadUnknown(const Json& model, const Spellings& spellings);
  // Completes the tables once all tokens and merges are known.
  void Finish();

  // Encode, of a part of a piece that no merge reaches beyond.
  void EncodeWord(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;
  void AppendSymbols(std::string_view character, Scratch* scratch) const;
  // Puts the merge of `left` with its neighbour, if there is one, on the heap.
  void Propose(int32_t left, Scratch* scratch) const;
  void Apply(int32_t left, Scratch* scratch) const;

  Alphabet alphabet_;
  std::vector<std::string> token_bytes_;                                 // Until they are taken.
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;  // By bytes.
  std::unordered_map<uint64_t, Merge> merges_;                           // By left << 32 | right.
  // The token of every single byte; kNone where there is none.
  std::array<int32_t, 256> byte_ids_;
  int32_t unknown_id_ = kNone;
  bool fuse_unknown_ = false;   // A run of unknown characters is one unknown token.
  bool ignore_merges_ = false;  // Pieces that are tokens stay whole, whatever the merges say.
  bool cut_at_marks_ = false;   // No merge reaches over the beginning of a word, "▁".
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_BPE_H_
