// A set of strings with a value each, and which of them a text begins with.
// Safe from any thread once filled.
#ifndef TREELINE_ENGINE_TEXT_BYTE_TRIE_H_
#define TREELINE_ENGINE_TEXT_BYTE_TRIE_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace treeline {

class ByteTrie {
 public:
  // A later value of the same key takes the place of an earlier one. REQUIRES: !key.empty(),
  // value >= 0.
  void Insert(std::string_view key, int32_t value) {
    first_bytes_.set(static_cast<unsigned char>(key[0]));
    uint64_t node = 0;
    for (const char byte : key) {
      const auto [it, is_new] = children_.try_emplace(Edge(node, byte), values_.size());
      if (is_new) values_.push_back(kNoValue);
      node = it->second;
    }
    values_[node] = value;
  }

  // Calls visit(length, value) for each key that `text` begins with, the shortest first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, const Visit& visit) const {
    if (text.empty() || !first_bytes_.test(static_cast<unsigned char>(text[0]))) return;
    uint64_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto it = children_.find(Edge(node, text[i]));
      if (it == children_.end()) return;
      node = it->second;
      if (values_[node] != kNoValue) visit(i + 1, values_[node]);
    }
  }

 private:
  static constexpr int32_t kNoValue = -1;
  static uint64_t Edge(uint64_t node, char byte) {
    return node << 8 | static_cast<unsigned char>(byte);
  }

  std::vector<int32_t> values_{kNoValue};            // By node; the root is 0.
  std::unordered_map<uint64_t, uint32_t> children_;  // By edge.
  std::bitset<256> first_bytes_;                     // Spares most places of a text a lookup.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_BYTE_TRIE_H_
