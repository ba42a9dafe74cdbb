// Cuts text into the pieces (words, numbers, runs of spaces) that byte-pair merges
// never cross. Immutable after loading; safe from any thread.
#ifndef TREELINE_ENGINE_TEXT_PRE_TOKENIZER_H_
#define TREELINE_ENGINE_TEXT_PRE_TOKENIZER_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"

namespace treeline {

class PreTokenizer {
 public:
  // From tokenizer.json's "pre_tokenizer": Digits and Split (behaviours Isolated and Removed) in
  // any number, then one ByteLevel. INVALID_ARGUMENT naming the step for anything else.
  static StatusOr<PreTokenizer> FromJson(const Json& json);

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // Calls `emit` with each piece, in order; a piece may be used within the call only.
  // REQUIRES: `text` is UTF-8. INVALID_ARGUMENT where a pattern exceeds its backtracking limit.
  Status Split(std::string_view text, const std::function<void(std::string_view)>& emit) const;

 private:
  struct Step;

  PreTokenizer();
  Status AppendSteps(const Json& json, const std::string& where);
  Status Apply(size_t step_index, std::string_view text,
               const std::function<void(std::string_view)>& emit) const;

  std::vector<Step> steps_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_PRE_TOKENIZER_H_
