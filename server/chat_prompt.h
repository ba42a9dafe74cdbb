// From messages to token ids, so that what a client writes in a message can never
// forge a turn: the template's own marks become special tokens, the same letters
// inside a message stay text.
#ifndef TREELINE_SERVER_CHAT_PROMPT_H_
#define TREELINE_SERVER_CHAT_PROMPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace treeline {

// The texts of all special tokens, longest first.
std::vector<std::string> SpecialTexts(const Tokenizer& tokenizer);

// Renders `messages` (each content a string or null) and encodes the result. The time is for
// templates that write today's date; seconds since 1970.
StatusOr<std::vector<int32_t>> EncodeChat(const Json& messages, const ChatTemplate& chat_template,
                                          const Tokenizer& tokenizer,
                                          const std::vector<std::string>& special_texts,
                                          int64_t now_unix_seconds);

}  // namespace treeline

#endif  // TREELINE_SERVER_CHAT_PROMPT_H_
