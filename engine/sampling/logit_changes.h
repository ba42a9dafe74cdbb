// What a request changes in a row of logits before its next token is drawn: bias, then bans, then
// penalties. A repetition penalty is for each token of prompt and output; presence and frequency
// penalties are for those of the output, drafted ones included.
#ifndef TREELINE_ENGINE_SAMPLING_LOGIT_CHANGES_H_
#define TREELINE_ENGINE_SAMPLING_LOGIT_CHANGES_H_

#include <cstdint>
#include <vector>

#include "engine/batch.h"
#include "kernels/vocabulary_params.h"

namespace treeline {

// Whether there is any such change.
bool ChangesLogits(const RowRequest& request);

// Not thread-safe: keeps a table between calls, so that a call costs the tokens' number and not
// the vocabulary's.
class LogitChanges {
 public:
  // One for each token that may be changed. Every token id in `request` lies in [0, vocab_size).
  std::vector<LogitChange> Of(const RowRequest& request, int32_t vocab_size);

 private:
  std::vector<int32_t> places_;  // [vocab_size] among the changes; -1, always between calls: none.
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_SAMPLING_LOGIT_CHANGES_H_
