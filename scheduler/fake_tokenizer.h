// A tokenizer for tests: each id has a piece of text ("<id> " unless set), some are
// special. It does not encode.
#ifndef TREELINE_SCHEDULER_FAKE_TOKENIZER_H_
#define TREELINE_SCHEDULER_FAKE_TOKENIZER_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace treeline {

class FakeTokenizer : public Tokenizer {
 public:
  explicit FakeTokenizer(int32_t vocab_size) {
    for (int32_t id = 0; id < vocab_size; ++id) pieces_.push_back(std::to_string(id) + " ");
  }

  void SetPiece(int32_t id, const std::string& text) { pieces_[id] = text; }
  void SetSpecial(int32_t id) { special_.insert(id); }

  StatusOr<std::vector<int32_t>> Encode(std::string_view, bool, bool) const override {
    return Unimplemented("FakeTokenizer does not encode");
  }
  std::string_view TokenBytes(int32_t id) const override { return pieces_[id]; }
  bool IsSpecial(int32_t id) const override { return special_.contains(id); }
  std::optional<int32_t> TokenId(std::string_view) const override { return std::nullopt; }
  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }

 private:
  std::vector<std::string> pieces_;
  std::set<int32_t> special_;
};

}  // namespace treeline

#endif  // TREELINE_SCHEDULER_FAKE_TOKENIZER_H_
