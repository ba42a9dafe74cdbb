// A tokenizer for tests that can be checked by eye: byte b is token b; behind them come
// the special tokens <s> (BOS), </s> (EOS), <|im_start|> and <|im_end|>.
#ifndef TREELINE_SERVER_BYTE_TOKENIZER_H_
#define TREELINE_SERVER_BYTE_TOKENIZER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace treeline {

class ByteTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256;
  static constexpr int32_t kEos = 257;
  static constexpr int32_t kStart = 258;
  static constexpr int32_t kEnd = 259;
  static constexpr int32_t kVocabSize = 260;

  ByteTokenizer() {
    for (int byte = 0; byte < 256; ++byte) pieces_.emplace_back(1, static_cast<char>(byte));
    for (const char* special : {"<s>", "</s>", "<|im_start|>", "<|im_end|>"}) {
      pieces_.emplace_back(special);
    }
  }

  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special,
                                        bool parse_special) const override {
    std::vector<int32_t> ids;
    if (add_special) ids.push_back(kBos);
    while (!text.empty()) {
      int32_t id = static_cast<unsigned char>(text[0]);
      for (int32_t special = kBos; parse_special && special < kVocabSize; ++special) {
        if (text.starts_with(pieces_[special])) id = special;
      }
      ids.push_back(id);
      text.remove_prefix(pieces_[id].size());
    }
    return ids;
  }
  std::string_view TokenBytes(int32_t id) const override {
    return id >= 0 && id < kVocabSize ? std::string_view(pieces_[id]) : std::string_view();
  }
  bool IsSpecial(int32_t id) const override { return id >= kBos && id < kVocabSize; }
  std::optional<int32_t> TokenId(std::string_view content) const override {
    for (int32_t id = 0; id < kVocabSize; ++id) {
      if (pieces_[id] == content) return id;
    }
    return std::nullopt;
  }
  int32_t vocab_size() const override { return kVocabSize; }
  std::optional<int32_t> bos_id() const override { return kBos; }
  std::optional<int32_t> eos_id() const override { return kEos; }

 private:
  std::vector<std::string> pieces_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_BYTE_TOKENIZER_H_
