#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace treeline {
namespace {

// The text with every ill-formed part replaced, and what was left undecided at the end.
struct Drained {
  std::string text;
  std::string rest;
  bool operator==(const Drained&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Drained& drained) {
  return out << testing::PrintToString(drained.text) << " + "
             << testing::PrintToString(drained.rest);
}

Drained Drain(std::string bytes) {
  Drained result;
  DrainUtf8(&bytes, &result.text);
  result.rest = bytes;
  return result;
}

TEST(FirstUtf8Char, DecodesTheBoundsOfEveryLength) {
  struct Case {
    std::string bytes;
    char32_t code_point;
  };
  const std::vector<Case> cases = {
      {std::string(1, '\0'), 0},
      {"\x7F", 0x7F},
      {"\xC2\x80", 0x80},
      {"\xDF\xBF", 0x7FF},
      {"\xE0\xA0\x80", 0x800},
      {"\xED\x9F\xBF", 0xD7FF},
      {"\xEE\x80\x80", 0xE000},
      {"\xEF\xBF\xBF", 0xFFFF},
      {"\xF0\x90\x80\x80", 0x10000},
      {"\xF4\x8F\xBF\xBF", 0x10FFFF},
  };
  for (const Case& c : cases) {
    const Utf8Char first = FirstUtf8Char(c.bytes + "x");
    EXPECT_EQ(first.state, Utf8Char::State::kValid);
    EXPECT_EQ(first.code_point, c.code_point);
    EXPECT_EQ(first.length, c.bytes.size());
  }
}

TEST(ValidUtf8Prefix, StopsAtTheFirstIllFormedByte) {
  EXPECT_EQ(ValidUtf8Prefix(""), 0);
  EXPECT_EQ(ValidUtf8Prefix("añ😀"), 7);
  EXPECT_EQ(ValidUtf8Prefix("añ\xFFz"), 3);
  EXPECT_EQ(ValidUtf8Prefix("a\xF0\x9F\x98"), 1);
}

// The expected texts are those of Python's bytes.decode("utf-8", "replace").
TEST(DrainUtf8, ReplacesMaximalSubparts) {
  const std::string bad(kReplacementCharacter);
  EXPECT_EQ(Drain("a\xFF\xFEz"), (Drained{"a" + bad + bad + "z", ""}));
  EXPECT_EQ(Drain("\x80\xBF"), (Drained{bad + bad, ""}));
  EXPECT_EQ(Drain("\xC0\x80."), (Drained{bad + bad + ".", ""}));            // Overlong.
  EXPECT_EQ(Drain("\xE0\x80\x80."), (Drained{bad + bad + bad + ".", ""}));  // Overlong.
  EXPECT_EQ(Drain("\xED\xA0\x80."), (Drained{bad + bad + bad + ".", ""}));  // A surrogate.
  EXPECT_EQ(Drain("\xF4\x90\x80\x80."), (Drained{bad + bad + bad + bad + ".", ""}));
  EXPECT_EQ(Drain("\xE2\x82z"), (Drained{bad + "z", ""}));
  EXPECT_EQ(Drain("\xF0\x9F\x98\xF0\x9F\x98\x80"), (Drained{bad + "😀", ""}));
}

TEST(DrainUtf8, KeepsAnUnfinishedCharacter) {
  EXPECT_EQ(Drain("é\xC3"), (Drained{"é", "\xC3"}));
  EXPECT_EQ(Drain("x\xE2\x82"), (Drained{"x", "\xE2\x82"}));
  EXPECT_EQ(Drain("\xF0\x9F\x98"), (Drained{"", "\xF0\x9F\x98"}));
}

TEST(IsUnicodeSpace, IsTheWhiteSpaceProperty) {
  for (char32_t c : {U'\t', U'\r', U' ', U'\x85', U'\xA0', U'\u1680', U'\u2003', U'\u3000'}) {
    EXPECT_TRUE(IsUnicodeSpace(c)) << uint32_t{c};
  }
  for (char32_t c : {U'a', U'\x1C', U'\u180E', U'\u200B', U'\uFEFF'}) {
    EXPECT_FALSE(IsUnicodeSpace(c)) << uint32_t{c};
  }
}

}  // namespace
}  // namespace treeline
