// What is done to text before it is tokenized: Unicode's form C, SentencePiece's marks
// for spaces. Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_NORMALIZER_H_
#define TREELINE_ENGINE_TEXT_NORMALIZER_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class Normalizer {
 public:
  // One change of a text. at_start: the text is the beginning of all that is encoded, not what
  // follows an added token.
  using Step = std::function<std::string(std::string_view text, bool at_start)>;

  // Changes nothing.
  Normalizer() = default;
  explicit Normalizer(Step step) { steps_.push_back(std::move(step)); }

  // From tokenizer.json's "normalizer", which may be null: NFC, Prepend, Replace (of a string) and
  // Sequence. INVALID_ARGUMENT naming the step for anything else.
  static StatusOr<Normalizer> FromJson(const Json& json);

  bool changes_nothing() const { return steps_.empty(); }
  // INVALID_ARGUMENT where the text grows beyond all use. REQUIRES: `text` is UTF-8.
  StatusOr<std::string> Apply(std::string_view text, bool at_start) const;

 private:
  Status AppendSteps(const Json& json, const std::string& where);

  std::vector<Step> steps_;
};

// `text` with every `from` replaced by `to`, from left to right. REQUIRES: !from.empty().
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_NORMALIZER_H_
