#include "engine/text/detokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace treeline {
namespace {

constexpr int32_t kSpecial = 256;

// A token for each byte, its value the id, and one special token.
class ByteTokenizer : public Tokenizer {
 public:
  ByteTokenizer() {
    for (int byte = 0; byte < 256; ++byte) bytes_.emplace_back(1, static_cast<char>(byte));
    bytes_.emplace_back("<end>");
  }
  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool, bool) const override {
    const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
    return std::vector<int32_t>(begin, begin + text.size());
  }
  std::string_view TokenBytes(int32_t id) const override {
    return id >= 0 && id < vocab_size() ? std::string_view(bytes_[id]) : std::string_view();
  }
  bool IsSpecial(int32_t id) const override { return id == kSpecial; }
  std::optional<int32_t> TokenId(std::string_view) const override { return std::nullopt; }
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return kSpecial; }

 private:
  std::vector<std::string> bytes_;
};

// What each byte of `bytes` gives, and Flush at the end.
std::vector<std::string> Stream(const std::string& bytes) {
  const ByteTokenizer tokenizer;
  Detokenizer detokenizer(tokenizer, true);
  std::vector<std::string> texts;
  for (unsigned char byte : bytes) texts.push_back(detokenizer.Push(byte));
  texts.push_back(detokenizer.Flush());
  return texts;
}

TEST(Detokenizer, HoldsBackUnfinishedCharacters) {
  EXPECT_EQ(Stream("aé"), (std::vector<std::string>{"a", "", "é", ""}));
  EXPECT_EQ(Stream("€"), (std::vector<std::string>{"", "", "€", ""}));
  EXPECT_EQ(Stream("😀!"), (std::vector<std::string>{"", "", "", "😀", "!", ""}));
}

TEST(Detokenizer, FlushReplacesAnUnfinishedCharacterOnce) {
  EXPECT_EQ(Stream("\xF0\x9F\x98"), (std::vector<std::string>{"", "", "", "\uFFFD"}));
  const ByteTokenizer tokenizer;
  Detokenizer detokenizer(tokenizer, true);
  EXPECT_EQ(detokenizer.Push(0xC3), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
  EXPECT_EQ(detokenizer.Push('a'), "a");
}

TEST(Detokenizer, ReplacesWhatCannotBecomeUtf8AtOnce) {
  EXPECT_EQ(Stream("\xFFz"), (std::vector<std::string>{"\uFFFD", "z", ""}));
  EXPECT_EQ(Stream("\xE2\x82z"), (std::vector<std::string>{"", "", "\uFFFDz", ""}));
  // A surrogate is known to be none by its second byte.
  EXPECT_EQ(Stream("\xED\xA0\x80"), (std::vector<std::string>{"", "\uFFFD\uFFFD", "\uFFFD", ""}));
}

TEST(Detokenizer, LeavesSpecialTokensOutWhereAsked) {
  const ByteTokenizer tokenizer;
  Detokenizer skipping(tokenizer, true);
  EXPECT_EQ(skipping.Push(0xC3), "");
  EXPECT_EQ(skipping.Push(kSpecial), "");
  EXPECT_EQ(skipping.Push(0xA9), "é");
  Detokenizer keeping(tokenizer, false);
  EXPECT_EQ(keeping.Push(kSpecial), "<end>");
  EXPECT_EQ(keeping.Push(-5), "");
}

// SentencePiece's tokens begin with the space before a word.
class SpacePrefixTokenizer : public ByteTokenizer {
 public:
  bool adds_space_prefix() const override { return true; }
};

TEST(Detokenizer, DropsTheSpaceBeforeATextNotWithinOne) {
  const SpacePrefixTokenizer tokenizer;
  EXPECT_EQ(tokenizer.Decode({' ', 'a', ' ', 'b'}, true), "a b");
  EXPECT_EQ(tokenizer.Decode({' ', ' ', 'a'}, true), " a");
  EXPECT_EQ(tokenizer.Decode({kSpecial, ' ', 'a'}, true), "a");
  EXPECT_EQ(tokenizer.Decode({kSpecial, ' ', 'a'}, false), "<end> a");

  Detokenizer at_start(tokenizer, true, /*at_text_start=*/true);
  EXPECT_EQ(at_start.Push(kSpecial), "");
  EXPECT_EQ(at_start.Push(' '), "");
  EXPECT_EQ(at_start.Push(' '), " ");
  EXPECT_EQ(at_start.Push('a'), "a");
  Detokenizer no_space(tokenizer, true, /*at_text_start=*/true);
  EXPECT_EQ(no_space.Push('a'), "a");
  EXPECT_EQ(no_space.Push(' '), " ");
  Detokenizer continuing(tokenizer, true);
  EXPECT_EQ(continuing.Push(' '), " ");
  const ByteTokenizer without_prefix;
  EXPECT_EQ(Detokenizer(without_prefix, true, /*at_text_start=*/true).Push(' '), " ");
}

// Every text of up to four of these bytes, which hold each class of lead and continuation.
TEST(Detokenizer, StreamsWhatDecodeGives) {
  const ByteTokenizer tokenizer;
  const std::vector<int32_t> alphabet = {'a',  0x80, 0x90, 0xA0, 0xBF, 0xC1, 0xC3, 0xE0,
                                         0xE2, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, kSpecial};
  for (const bool skip_special : {false, true}) {
    for (int code = 0; code < 1 << 16; ++code) {
      std::vector<int32_t> ids;
      for (int shift = 0; shift < 16; shift += 4) ids.push_back(alphabet[code >> shift & 15]);
      Detokenizer detokenizer(tokenizer, skip_special);
      std::string streamed;
      for (int32_t id : ids) streamed += detokenizer.Push(id);
      streamed += detokenizer.Flush();
      ASSERT_EQ(streamed, tokenizer.Decode(ids, skip_special)) << testing::PrintToString(ids);
    }
  }
}

}  // namespace
}  // namespace treeline
