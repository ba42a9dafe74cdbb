#include "server/chat_prompt.h"

#include <algorithm>
#include <string_view>

namespace treeline {

namespace {

// Two characters that Unicode promises never to assign (U+FDD0, U+FDD1) carry the borders of
// literal text through the template. Clients cannot send them: they are taken out first.
constexpr std::string_view kLiteralBegin = "\xef\xb7\x90";
constexpr std::string_view kLiteralEnd = "\xef\xb7\x91";

std::string Without(std::string_view what, const std::string& text) {
  std::string kept;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(what, begin), text.size());
    kept.append(text, begin, end - begin);
    begin = end + what.size();
  }
  return kept;
}

std::string WithoutBorders(const std::string& text) {
  return Without(kLiteralEnd, Without(kLiteralBegin, text));
}

// Puts borders around every special token's text in what the client wrote.
std::string MarkLiterals(const std::string& client_text,
                         const std::vector<std::string>& special_texts) {
  const std::string text = WithoutBorders(client_text);
  std::string first_bytes;
  for (const std::string& special : special_texts) first_bytes += special[0];
  std::string marked;
  for (size_t at = 0; at < text.size();) {
    const size_t candidate = std::min(text.find_first_of(first_bytes, at), text.size());
    marked.append(text, at, candidate - at);
    at = candidate;
    const auto special =
        std::find_if(special_texts.begin(), special_texts.end(),
                     [&](const std::string& s) { return text.compare(at, s.size(), s) == 0; });
    if (special != special_texts.end()) {
      marked.append(kLiteralBegin).append(*special).append(kLiteralEnd);
      at += special->size();
    } else if (at < text.size()) {
      marked += text[at++];
    }
  }
  return marked;
}

// Every string of a value, however deep (ParseJson bounds the depth).
void MarkStrings(const std::vector<std::string>& special_texts, Json* value) {
  if (value->is_string()) {
    *value = MarkLiterals(value->get<std::string>(), special_texts);
  } else if (value->is_structured()) {
    for (Json& item : *value) MarkStrings(special_texts, &item);
  }
}

// Encodes text up to and between the borders; only outside of them special tokens count.
StatusOr<std::vector<int32_t>> EncodeMarked(const std::string& text, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  bool literal = false;
  for (size_t begin = 0; begin < text.size();) {
    const std::string_view border = literal ? kLiteralEnd : kLiteralBegin;
    const size_t end = std::min(text.find(border, begin), text.size());
    // A border is left over only where a template cut a pair in two.
    const std::string part = WithoutBorders(text.substr(begin, end - begin));
    TREELINE_ASSIGN_OR_RETURN(const std::vector<int32_t> part_ids,
                              tokenizer.Encode(part, /*add_special=*/false,
                                               /*parse_special=*/!literal));
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
    begin = end + border.size();
    literal = !literal;
  }
  return ids;
}

std::string TokenText(const Tokenizer& tokenizer, std::optional<int32_t> id) {
  return id.has_value() ? std::string(tokenizer.TokenBytes(*id)) : std::string();
}

}  // namespace

std::vector<std::string> SpecialTexts(const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.IsSpecial(id)) texts.emplace_back(tokenizer.TokenBytes(id));
  }
  std::erase(texts, "");
  std::sort(texts.begin(), texts.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  return texts;
}

StatusOr<std::vector<int32_t>> EncodeChat(const Json& messages, const ChatTemplate& chat_template,
                                          const Tokenizer& tokenizer,
                                          const std::vector<std::string>& special_texts,
                                          int64_t now_unix_seconds) {
  Json marked = messages;
  MarkStrings(special_texts, &marked);
  ChatTemplate::Inputs inputs;
  inputs.messages = marked;
  inputs.now_unix_seconds = now_unix_seconds;
  inputs.bos_token = TokenText(tokenizer, tokenizer.bos_id());
  inputs.eos_token = TokenText(tokenizer, tokenizer.eos_id());
  TREELINE_ASSIGN_OR_RETURN(const std::string text, chat_template.Render(inputs));
  return EncodeMarked(text, tokenizer);
}

}  // namespace treeline
