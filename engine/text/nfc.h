// Unicode normalization form C: accents and their letters as one character where there
// is one. Qwen2 tokenizes text in this form.
#ifndef TREELINE_ENGINE_TEXT_NFC_H_
#define TREELINE_ENGINE_TEXT_NFC_H_

#include <string>
#include <string_view>

namespace treeline {

// O(n log n) for any text. REQUIRES: `text` is UTF-8.
std::string Nfc(std::string_view text);

}  // namespace treeline

#endif  // TREELINE_ENGINE_TEXT_NFC_H_
