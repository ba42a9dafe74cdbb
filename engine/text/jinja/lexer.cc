#include "engine/text/jinja/lexer.h"

#include <algorithm>
#include <utility>

#include "engine/text/jinja/unicode.h"
#include "engine/text/utf8.h"

namespace treeline::jinja {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

// The value of a string literal's inside, with Python's escapes.
class Unescaper {
 public:
  Unescaper(std::string_view text, int line) : text_(text), line_(line) {}

  StatusOr<std::string> Run() {
    while (at_ < text_.size()) {
      if (text_[at_] != '\\') {
        value_ += text_[at_++];
        continue;
      }
      ++at_;  // The lexer saw to it that a character follows.
      TREELINE_RETURN_IF_ERROR(Escape(text_[at_++]));
    }
    return std::move(value_);
  }

 private:
  Status Escape(char c) {
    constexpr std::string_view kLetters = "\\'\"abfnrtv";
    constexpr std::string_view kValues = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t place = kLetters.find(c); place != std::string_view::npos) {
      value_ += kValues[place];
      return OkStatus();
    }
    switch (c) {
      case '\n':
        return OkStatus();
      case 'x':
        return Code(2, 2, 16);
      case 'u':
        return Code(4, 4, 16);
      case 'U':
        return Code(8, 8, 16);
      case 'N':
        return SyntaxError(line_, "the escape \\N in a string is not supported");
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      --at_;
      return Code(1, 3, 8);
    }
    value_ += '\\';
    value_ += c;
    return OkStatus();
  }

  Status Code(size_t min_digits, size_t max_digits, uint32_t base) {
    uint32_t code = 0;
    size_t digits = 0;
    for (; digits < max_digits && at_ < text_.size(); ++digits, ++at_) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      const char lower = static_cast<char>(text_[at_] | (text_[at_] >= 'A' ? 0x20 : 0));
      const size_t digit = kDigits.find(lower);
      if (digit >= base) break;
      code = code * base + static_cast<uint32_t>(digit);
    }
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    if (digits < min_digits || code > 0x10FFFF || surrogate) {
      return SyntaxError(line_, "an escape in a string is not a character");
    }
    AppendUtf8(code, &value_);
    return OkStatus();
  }

  std::string_view text_;
  const int line_;
  size_t at_ = 0;
  std::string value_;
};

class Lexer {
 public:
  Lexer(std::string_view source, std::deque<std::string>* strings)
      : source_(source), strings_(*strings) {}

  StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) TREELINE_RETURN_IF_ERROR(LexData());
    Add(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return source_.substr(at_); }
  bool Sees(std::string_view text) const { return Rest().starts_with(text); }

  void Add(TokenType type, std::string_view text) { tokens_.push_back({type, line_, text}); }

  void Advance(size_t size) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + size, '\n'));
    at_ += size;
  }

  void SkipSpace() { Advance(Rest().size() - StripLeft(Rest()).size()); }

  // The sign of a tag's start that was just passed: '-', '+' or none (0).
  char TakeSign() {
    if (!Sees("-") && !Sees("+")) return 0;
    const char sign = source_[at_];
    Advance(1);
    return sign;
  }

  // Text from `start` to `end`, less the white space that the tag at its end takes.
  void AddData(size_t start, size_t end, int line, char sign, bool is_variable) {
    std::string_view data = source_.substr(start, end - start);
    if (sign == '-') {
      data = StripRight(data);
    } else if (sign != '+' && !is_variable) {
      const size_t newline = data.rfind('\n');
      const bool at_line_start =
          newline != std::string_view::npos || start == 0 || source_[start - 1] == '\n';
      const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
      if (at_line_start && StripLeft(data.substr(line_start)).empty()) {
        data = data.substr(0, line_start);
      }
    }
    if (!data.empty()) tokens_.push_back({TokenType::kData, line, data});
  }

  // Text up to the next tag, and that tag.
  Status LexData() {
    const size_t start = at_;
    const int line = line_;
    size_t tag = source_.find('{', at_);
    while (tag != std::string_view::npos &&
           (tag + 1 == source_.size() ||
            std::string_view("{%#").find(source_[tag + 1]) == std::string_view::npos)) {
      tag = source_.find('{', tag + 1);
    }
    if (tag == std::string_view::npos) {
      Add(TokenType::kData, Rest());
      Advance(Rest().size());
      return OkStatus();
    }
    Advance(tag + 2 - at_);
    const char kind = source_[tag + 1];
    const char sign = TakeSign();
    AddData(start, tag, line, sign, /*is_variable=*/kind == '{');
    if (kind == '#') return SkipComment();
    if (kind == '%' && TakeRawBegin()) return LexRaw();
    Add(kind == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin, "");
    return LexTag(kind == '{');
  }

  // Takes the end of a tag, given its last characters, and the white space that goes with it.
  bool TakeEnd(std::string_view end, bool trims_newline) {
    if (Sees("-") && Rest().substr(1).starts_with(end)) {
      Advance(1 + end.size());
      SkipSpace();
      return true;
    }
    if (trims_newline && Sees("+") && Rest().substr(1).starts_with(end)) {
      Advance(1 + end.size());
      return true;
    }
    if (!Sees(end)) return false;
    Advance(end.size());
    if (trims_newline && Sees("\n")) Advance(1);
    return true;
  }

  Status SkipComment() {
    const int line = line_;
    size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) return SyntaxError(line, "a comment is not closed by #}}");
    if (end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+')) --end;
    Advance(end - at_);
    TakeEnd("#}", /*trims_newline=*/true);
    return OkStatus();
  }

  bool TakeRawBegin() {
    std::string_view rest = StripLeft(Rest());
    if (!rest.starts_with("raw")) return false;
    rest = StripLeft(rest.substr(3));
    const bool strips = rest.starts_with("-%}");
    if (!strips && !rest.starts_with("%}")) return false;
    Advance(Rest().size() - rest.size() + (strips ? 3 : 2));
    if (strips) SkipSpace();
    return true;
  }

  Status LexRaw() {
    const size_t start = at_;
    const int line = line_;
    for (size_t tag = source_.find("{%", at_); tag != std::string_view::npos;
         tag = source_.find("{%", tag + 2)) {
      Advance(tag + 2 - at_);
      const char sign = TakeSign();
      SkipSpace();
      if (!Sees("endraw")) continue;
      Advance(6);
      SkipSpace();
      if (!TakeEnd("%}", /*trims_newline=*/true)) continue;
      AddData(start, tag, line, sign, /*is_variable=*/false);
      return OkStatus();
    }
    return SyntaxError(line, "a raw block is not closed by endraw");
  }

  Status LexTag(bool is_variable) {
    const int line = line_;
    const size_t first_token = tokens_.size();
    open_.clear();
    for (SkipSpace(); at_ < source_.size(); SkipSpace()) {
      const std::string_view end = is_variable ? "}}" : "%}";
      const int end_line = line_;
      if (open_.empty() && TakeEnd(end, /*trims_newline=*/!is_variable)) {
        tokens_.push_back(
            {is_variable ? TokenType::kVariableEnd : TokenType::kBlockEnd, end_line, end});
        return OkStatus();
      }
      TREELINE_RETURN_IF_ERROR(LexToken());
      if (tokens_.size() - first_token > kMaxTagTokens) {
        return SyntaxError(line, "a tag of more than {} tokens", kMaxTagTokens);
      }
    }
    return SyntaxError(line, "a tag is not closed by {}", is_variable ? "}}" : "%}");
  }

  Status LexToken() {
    const char c = source_[at_];
    if (IsDigit(c)) return LexNumber();
    if (c == '"' || c == '\'') return LexString(c);
    if (!IsNameStart(c)) return LexOperator();
    size_t size = 1;
    while (at_ + size < source_.size() && IsNamePart(source_[at_ + size])) ++size;
    Add(TokenType::kName, Rest().substr(0, size));
    Advance(size);
    return OkStatus();
  }

  // The end of the digits (and underscores between them) that start at `from`.
  size_t DigitsEnd(size_t from) const {
    while (from < source_.size() &&
           (IsDigit(source_[from]) ||
            (source_[from] == '_' && from + 1 < source_.size() && IsDigit(source_[from + 1])))) {
      ++from;
    }
    return from;
  }

  Status LexNumber() {
    const auto digit_at = [&](size_t place) {
      return place < source_.size() && IsDigit(source_[place]);
    };
    size_t end = DigitsEnd(at_);
    bool is_float = false;
    // After a dot these digits are a subscript: x.0.1 is not a number.
    const bool is_subscript = at_ > 0 && source_[at_ - 1] == '.';
    if (!is_subscript && end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      end = DigitsEnd(end + 1);
    }
    if (!is_subscript && end < source_.size() && (source_[end] | 0x20) == 'e') {
      const bool has_sign =
          end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-');
      if (digit_at(end + (has_sign ? 2 : 1))) {
        is_float = true;
        end = DigitsEnd(end + (has_sign ? 2 : 1));
      }
    }
    if (end < source_.size() && IsNamePart(source_[end])) {
      return SyntaxError(line_, "a number runs into '{}'; only decimal numbers are supported",
                         source_[end]);
    }
    Add(is_float ? TokenType::kFloat : TokenType::kInteger, Rest().substr(0, end - at_));
    Advance(end - at_);
    return OkStatus();
  }

  Status LexString(char quote) {
    size_t end = at_ + 1;
    bool has_escapes = false;
    for (; end < source_.size() && source_[end] != quote; ++end) {
      if (source_[end] != '\\') continue;
      has_escapes = true;
      ++end;
    }
    if (end >= source_.size()) return SyntaxError(line_, "a string is not closed by {}", quote);
    std::string_view value = source_.substr(at_ + 1, end - at_ - 1);
    if (has_escapes) {
      TREELINE_ASSIGN_OR_RETURN(strings_.emplace_back(), Unescaper(value, line_).Run());
      value = strings_.back();
    }
    Add(TokenType::kString, value);
    Advance(end + 1 - at_);
    return OkStatus();
  }

  Status LexOperator() {
    constexpr std::string_view kPairs[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kSingles = "+-/*%~[](){}><=.:|,;";
    size_t size = 0;
    for (const std::string_view pair : kPairs) size = Sees(pair) ? 2 : size;
    if (size == 0 && kSingles.find(source_[at_]) != std::string_view::npos) size = 1;
    if (size == 0) {
      return SyntaxError(line_, "unexpected character '{}' in a tag",
                         Rest().substr(0, FirstCharacter(Rest()).size));
    }
    const std::string_view text = Rest().substr(0, size);
    TREELINE_RETURN_IF_ERROR(Balance(text[0]));
    Add(TokenType::kOperator, text);
    Advance(size);
    return OkStatus();
  }

  Status Balance(char c) {
    constexpr std::string_view kOpening = "([{";
    constexpr std::string_view kClosing = ")]}";
    if (const size_t place = kOpening.find(c); place != std::string_view::npos) {
      open_ += kClosing[place];
    } else if (kClosing.find(c) != std::string_view::npos) {
      if (open_.empty()) return SyntaxError(line_, "unexpected '{}'", c);
      if (open_.back() != c) {
        return SyntaxError(line_, "unexpected '{}', expected '{}'", c, open_.back());
      }
      open_.pop_back();
    }
    return OkStatus();
  }

  const std::string_view source_;
  std::deque<std::string>& strings_;
  size_t at_ = 0;
  int line_ = 1;
  std::string open_;  // The brackets that the current tag has yet to close.
  std::vector<Token> tokens_;
};

}  // namespace

std::string NormalizeSource(std::string_view source) {
  std::string normal;
  normal.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    normal += source[i] == '\r' ? '\n' : source[i];
  }
  if (normal.ends_with('\n')) normal.pop_back();
  return normal;
}

StatusOr<std::vector<Token>> Tokenize(std::string_view source, std::deque<std::string>* strings) {
  return Lexer(source, strings).Run();
}

}  // namespace treeline::jinja
