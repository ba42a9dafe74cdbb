// The tokenizer of every model here, in the stages of Hugging Face's tokenizers: added
// tokens are taken out of the text, the rest is normalized and cut into pieces, and the
// vocabulary's algorithm makes ids of each piece. The loaders (tokenizer_from_*) choose the stages.
// Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_SUBWORD_TOKENIZER_H_
#define TREELINE_ENGINE_TEXT_SUBWORD_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/normalizer.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unigram.h"

namespace treeline {

class SubwordTokenizer : public Tokenizer {
 public:
  struct Stages {
    AddedTokens added_tokens;
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    std::variant<Bpe, Unigram> model;
    std::vector<std::string> token_bytes;  // By id, of the model; as they stand in text.
    std::string space_mark = " ";          // How the model's tokens spell a space.
    bool adds_space_prefix = false;        // Text gets a space before it, not for decoding.
  };
  // What is said of a sequence, not of its text.
  struct Marks {
    std::optional<int32_t> bos_id = std::nullopt;
    std::optional<int32_t> eos_id = std::nullopt;
    std::vector<int32_t> prefix = {};  // The ids before every text.
  };

  explicit SubwordTokenizer(Stages stages);
  const Marks& marks() const { return marks_; }
  // For the loader, which may find the ids by the tokenizer's help.
  void set_marks(Marks marks) { marks_ = std::move(marks); }

  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special,
                                        bool parse_special) const override;
  std::string_view TokenBytes(int32_t id) const override;
  bool IsSpecial(int32_t id) const override { return special_ids_.contains(id); }
  std::optional<int32_t> TokenId(std::string_view content) const override;
  bool adds_space_prefix() const override { return stages_.adds_space_prefix; }
  int32_t vocab_size() const override { return static_cast<int32_t>(stages_.token_bytes.size()); }
  std::optional<int32_t> bos_id() const override { return marks_.bos_id; }
  std::optional<int32_t> eos_id() const override { return marks_.eos_id; }

 private:
  Stages stages_;
  Marks marks_;
  std::unordered_set<int32_t> special_ids_;
  std::unordered_map<std::string_view, int32_t> added_ids_;  // By content, held by added_tokens.
};

// Applies what tokenizer_config.json, an object, says of a sequence's marks: bos_token, eos_token
// and add_bos_token.
Status ApplyConfig(const Json& config, const SubwordTokenizer& tokenizer,
                   SubwordTokenizer::Marks* marks);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_SUBWORD_TOKENIZER_H_
