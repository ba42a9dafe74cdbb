#include "engine/text/sentencepiece_normalizer.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/byte_trie.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

// The longest sequence that is mapped and the longest replacement; real ones stay under 60.
constexpr size_t kMaxMappedBytes = 256;

// A prefix of a text, and what stands for it.
struct Mapped {
  size_t length;
  std::string_view replacement;
};

// The compiled map: its size in bytes (32 bits), a double-array trie, and the replacements, each
// ended by a zero byte, by whose position the trie's values are given. All numbers are
// little-endian.
class CharacterMap {
 public:
  static StatusOr<CharacterMap> Parse(std::string_view bytes) {
    CharacterMap map;
    if (bytes.empty()) return map;
    uint32_t trie_bytes = 0;
    if (bytes.size() >= sizeof(trie_bytes)) {
      std::memcpy(&trie_bytes, bytes.data(), sizeof(trie_bytes));
      bytes.remove_prefix(sizeof(trie_bytes));
    }
    if (trie_bytes == 0 || trie_bytes % sizeof(uint32_t) != 0 || trie_bytes >= bytes.size() ||
        bytes.back() != '\0') {
      return InvalidArgument("normalizer_spec.precompiled_charsmap: malformed");
    }
    map.units_.resize(trie_bytes / sizeof(uint32_t));
    std::memcpy(map.units_.data(), bytes.data(), trie_bytes);
    map.replacements_ = bytes.substr(trie_bytes);
    for (size_t begin = 0; begin < map.replacements_.size();) {
      const size_t end = map.replacements_.find('\0', begin);
      if (end - begin > kMaxMappedBytes) {
        return InvalidArgument(
            "normalizer_spec.precompiled_charsmap: a replacement of {} bytes; the limit is {}",
            end - begin, kMaxMappedBytes);
      }
      begin = end + 1;
    }
    return map;
  }

  // What the longest mapped prefix of `text` becomes; length 0 where none is mapped.
  Mapped Map(std::string_view text) const {
    Mapped longest{0, {}};
    if (units_.empty()) return longest;
    size_t node = Offset(units_[0]);
    for (size_t i = 0; i < std::min(text.size(), kMaxMappedBytes); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      node ^= byte;
      if (node >= units_.size() || Label(units_[node]) != byte) break;
      const uint32_t unit = units_[node];
      node ^= Offset(unit);
      if (!HasValue(unit)) continue;
      if (node >= units_.size()) break;
      const size_t begin = units_[node] & 0x7FFFFFFF;
      if (begin >= replacements_.size()) break;
      longest = {i + 1, replacements_.c_str() + begin};
    }
    return longest;
  }

 private:
  static uint32_t Label(uint32_t unit) { return unit & 0x800000FF; }
  static size_t Offset(uint32_t unit) { return (unit >> 10) << ((unit >> 6) & 8); }
  static bool HasValue(uint32_t unit) { return (unit >> 8) & 1; }

  std::vector<uint32_t> units_;
  std::string replacements_;
};

class SpaceNormalizer {
 public:
  SpaceNormalizer(const SentencePieceModel& model, CharacterMap map, bool prefix_at_start_only)
      : map_(std::move(map)),
        add_prefix_(model.add_dummy_prefix),
        prefix_at_start_only_(prefix_at_start_only),
        remove_extra_(model.remove_extra_whitespace),
        space_(model.escape_whitespace ? kSpaceMark : " ") {
    for (const SentencePieceModel::Piece& piece : model.pieces) {
      if (piece.type == TokenType::kUserDefined) user_defined_.Insert(piece.text, 0);
    }
  }

  std::string operator()(std::string_view text, bool at_start) const {
    std::string result;
    bool after_space = remove_extra_;  // Further spaces are left out.
    bool is_empty = true;              // No text yet, so still no prefix.
    while (!text.empty()) {
      Mapped next = FirstMapped(text);
      text.remove_prefix(next.length);
      if (is_empty && remove_extra_ && next.replacement == " ") continue;
      if (std::exchange(is_empty, false) && add_prefix_ && (at_start || !prefix_at_start_only_)) {
        result.append(space_);
      }
      while (after_space && next.replacement.starts_with(' ')) next.replacement.remove_prefix(1);
      if (next.replacement.empty()) continue;
      for (const char c : next.replacement) {
        c == ' ' ? result.append(space_) : result.append(1, c);
      }
      after_space = remove_extra_ && next.replacement.ends_with(' ');
    }
    while (remove_extra_ && result.ends_with(space_)) result.resize(result.size() - space_.size());
    return result;
  }

 private:
  // The first character or mapped sequence of `text`; a user-defined piece stays as it is.
  Mapped FirstMapped(std::string_view text) const {
    size_t length = 0;
    user_defined_.ForEachPrefix(text,
                                [&](size_t prefix_length, int32_t) { length = prefix_length; });
    if (length == 0) {
      const Mapped mapped = map_.Map(text);
      if (mapped.length > 0) return mapped;
      length = FirstUtf8Char(text).length;
    }
    return {length, text.substr(0, length)};
  }

  CharacterMap map_;
  ByteTrie user_defined_;
  bool add_prefix_;
  bool prefix_at_start_only_;
  bool remove_extra_;
  std::string_view space_;
};

}  // namespace

StatusOr<Normalizer> SentencePieceNormalizer(const SentencePieceModel& model,
                                             bool prefix_at_start_only) {
  TREELINE_ASSIGN_OR_RETURN(CharacterMap map, CharacterMap::Parse(model.character_map));
  return Normalizer(SpaceNormalizer(model, std::move(map), prefix_at_start_only));
}

}  // namespace treeline
