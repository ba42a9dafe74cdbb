#include "engine/text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace treeline {
namespace {

using Pieces = std::vector<std::string>;

constexpr char kByteLevel[] = R"({"type": "ByteLevel", "add_prefix_space": false})";

// A Sequence of `steps` and a ByteLevel that cuts nothing.
std::string Then(const std::string& steps) {
  return R"({"type": "Sequence", "pretokenizers": [)" + steps +
         R"(, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})";
}

StatusOr<Pieces> Split(const PreTokenizer& pre_tokenizer, std::string_view text,
                       bool at_start = true) {
  Pieces pieces;
  TREELINE_RETURN_IF_ERROR(pre_tokenizer.Split(
      text, at_start, [&](std::string_view piece) { pieces.emplace_back(piece); }));
  return pieces;
}

StatusOr<Pieces> Split(const std::string& json, std::string_view text, bool at_start = true) {
  TREELINE_ASSIGN_OR_RETURN(const PreTokenizer pre_tokenizer,
                            PreTokenizer::FromJson(Json::parse(json)));
  return Split(pre_tokenizer, text, at_start);
}

std::string ErrorOf(const std::string& json) {
  const Status status = Split(json, "").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << json;
  return Message(status);
}

TEST(PreTokenizer, CutsGpt2Words) {
  EXPECT_EQ(*Split(kByteLevel, "I'm here,  12 times\n\n ok "),
            (Pieces{"I", "'m", " here", ",", " ", " 12", " times", "\n\n", " ok", " "}));
  EXPECT_EQ(*Split(kByteLevel, "né\u00A0日本 ½x"), (Pieces{"né", "\u00A0", "日本", " ½", "x"}));
  EXPECT_EQ(*Split(kByteLevel, ""), Pieces{});
}

// Unlike PCRE2's own \s.
TEST(PreTokenizer, TakesTheMongolianVowelSeparatorForNoSpace) {
  EXPECT_EQ(*Split(kByteLevel, "a \u180E!"), (Pieces{"a", " \u180E!"}));
}

TEST(PreTokenizer, AddsAPrefixSpaceToEachPartOnce) {
  const std::string json = R"({"type": "ByteLevel", "add_prefix_space": true})";
  EXPECT_EQ(*Split(json, "a b"), (Pieces{" a", " b"}));
  EXPECT_EQ(*Split(json, " a"), (Pieces{" a"}));
  EXPECT_EQ(*Split(json, ""), Pieces{});
}

TEST(PreTokenizer, CutsDigits) {
  EXPECT_EQ(*Split(Then(R"({"type": "Digits", "individual_digits": true})"), "ab12½c"),
            (Pieces{"ab", "1", "2", "½", "c"}));
  EXPECT_EQ(*Split(Then(R"({"type": "Digits", "individual_digits": false})"), "ab12½c"),
            (Pieces{"ab", "12½", "c"}));
}

TEST(PreTokenizer, CutsByPatterns) {
  const auto split = [](const std::string& pattern, const std::string& behavior, bool invert) {
    return Then(R"({"type": "Split", "pattern": )" + pattern + R"(, "behavior": ")" + behavior +
                R"(", "invert": )" + (invert ? "true}" : "false}"));
  };
  EXPECT_EQ(*Split(split(R"({"Regex": "\\d+"})", "Isolated", false), "a12b3"),
            (Pieces{"a", "12", "b", "3"}));
  EXPECT_EQ(*Split(split(R"({"Regex": "\\d+"})", "Removed", false), "a12b3"), (Pieces{"a", "b"}));
  EXPECT_EQ(*Split(split(R"({"Regex": "\\d+"})", "Removed", true), "a12b3"), (Pieces{"12", "3"}));
  EXPECT_EQ(*Split(split(R"({"String": ".*"})", "Isolated", false), "a.*b"),
            (Pieces{"a", ".*", "b"}));
}

// The pieces are those of Hugging Face's tokenizers.
TEST(PreTokenizer, MarksSpaces) {
  const auto metaspace = [](const std::string& options) {
    return R"({"type": "Metaspace", "replacement": "▁")" + options + "}";
  };
  const std::string whole = R"(, "split": false)";
  EXPECT_EQ(*Split(metaspace(""), "a  b c"), (Pieces{"▁a", "▁", "▁b", "▁c"}));
  EXPECT_EQ(*Split(metaspace(whole), "a  b"), (Pieces{"▁a▁▁b"}));
  EXPECT_EQ(*Split(metaspace(whole), " a"), (Pieces{"▁a"}));
  EXPECT_EQ(*Split(metaspace(whole), "a", false), (Pieces{"▁a"}));
  EXPECT_EQ(*Split(metaspace(whole + R"(, "add_prefix_space": false)"), "a"), (Pieces{"a"}));
  EXPECT_EQ(*Split(metaspace(whole + R"(, "prepend_scheme": "never")"), "a b"), (Pieces{"a▁b"}));
  EXPECT_EQ(*Split(metaspace(whole + R"(, "prepend_scheme": "first")"), "a"), (Pieces{"▁a"}));
  EXPECT_EQ(*Split(metaspace(whole + R"(, "prepend_scheme": "first")"), "a b", false),
            (Pieces{"a▁b"}));
}

TEST(PreTokenizer, CutsNothingWhereThereIsNone) {
  EXPECT_EQ(*Split("null", "a b"), (Pieces{"a b"}));
  EXPECT_FALSE(PreTokenizer::FromJson(nullptr)->is_byte_level());
  EXPECT_TRUE(PreTokenizer::FromJson(Json::parse(kByteLevel))->is_byte_level());
}

// The cuts of the models' own tokenizer.json files, by Hugging Face's tokenizers.
TEST(PreTokenizer, KnowsTheNamesOfGgufFiles) {
  const auto split = [](const std::string& name, std::string_view text) {
    const auto pre_tokenizer = PreTokenizer::FromName(name);
    EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
    EXPECT_TRUE(pre_tokenizer->is_byte_level());
    return *Split(*pre_tokenizer, text);
  };
  const std::string_view text = "I'M 1234 (ok)!\n\n  fooBar/\n";
  EXPECT_EQ(split("gpt-2", text),
            (Pieces{"I", "'", "M", " 1234", " (", "ok", ")!", "\n\n ", " fooBar", "/", "\n"}));
  EXPECT_EQ(split("smollm", text), (Pieces{"I", "'", "M", " ", "1", "2", "3", "4", " (", "ok", ")!",
                                           "\n\n ", " fooBar", "/", "\n"}));
  EXPECT_EQ(split("llama-bpe", text),
            (Pieces{"I", "'M", " ", "123", "4", " (", "ok", ")!\n\n", " ", " fooBar", "/\n"}));
  EXPECT_EQ(split("qwen2", text), (Pieces{"I", "'M", " ", "1", "2", "3", "4", " (", "ok", ")!\n\n",
                                          " ", " fooBar", "/\n"}));
  EXPECT_EQ(split("tekken", text), (Pieces{"I", "'M", " ", "1", "2", "3", "4", " (", "ok", ")!\n\n",
                                           " ", " foo", "Bar", "/\n"}));
  const Status status = PreTokenizer::FromName("unheard-of").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("tokenizer.ggml.pre: 'unheard-of'"), std::string::npos);
}

// Llama-3's pattern; the pieces are those of Hugging Face's tokenizers.
TEST(PreTokenizer, CutsLlama3Words) {
  const std::string json =
      Then(R"({"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": )"
           R"("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|)"
           R"( ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}})");
  EXPECT_EQ(
      *Split(json, "It'S 12345 (ok)!\n\n  next\t\n x"),
      (Pieces{"It", "'S", " ", "123", "45", " (", "ok", ")!\n\n", " ", " next", "\t\n", " x"}));
}

// Each would take hours if a match looked at all of the text.
TEST(PreTokenizer, LongRunsStayCheap) {
  const size_t size = 2 << 20;
  for (const char* unit : {"a", "A", "日", " ", "\n", "!", "1", "é", "a ", " \n", "\n ", "'"}) {
    std::string text;
    while (text.size() < size) text += unit;
    for (const char* name : {"gpt-2", "llama-bpe", "qwen2", "smollm", "tekken"}) {
      auto pieces = Split(*PreTokenizer::FromName(name), text);
      ASSERT_TRUE(pieces.ok()) << name << " " << unit << ": " << pieces.status();
      size_t total = 0;
      for (const std::string& piece : *pieces) total += piece.size();
      EXPECT_EQ(total, text.size());
    }
  }
}

TEST(PreTokenizer, GivesUpOnPatternsThatBacktrackWithoutEnd) {
  const std::string json =
      Then(R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "(a|aa|aaa)+[bc]"}})");
  const Status status = Split(json, std::string(100, 'a')).status();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("pre_tokenizer pattern gives up"), std::string::npos);
}

TEST(PreTokenizer, RefusesWhatItDoesNotKnowByName) {
  const auto split = [](const std::string& pattern, const std::string& behavior) {
    return Then(R"({"type": "Split", "pattern": )" + pattern + R"(, "behavior": )" + behavior +
                "}");
  };
  struct Case {
    std::string json;
    const char* error;
  };
  const std::vector<Case> cases = {
      {"[]", "pre_tokenizer: expected an object, found array"},
      {"{}", "pre_tokenizer.type: expected a string, found null"},
      {R"({"type": "Whitespace"})", "the step 'Whitespace' is not supported"},
      {R"({"type": "Metaspace"})", "pre_tokenizer.replacement: expected a string"},
      {R"({"type": "Metaspace", "replacement": "_"})", "replacement: '_' is not supported"},
      {R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "last"})",
       "prepend_scheme: 'last' is none of"},
      {R"({"type": "Metaspace", "replacement": "▁", "split": 1})", "split: expected a boolean"},
      {R"({"type": "Sequence"})", "pre_tokenizer.pretokenizers: expected an array"},
      {Then(kByteLevel), "pretokenizers[1]: a ByteLevel step after ByteLevel"},
      {R"({"type": "ByteLevel", "use_regex": 1})", "pre_tokenizer.use_regex: expected a boolean"},
      {split(R"({"Regex": "("})", R"("Isolated")"),
       "pretokenizers[0].pattern: bad pattern at byte"},
      {split(R"({"Regex": "a*"})", R"("Isolated")"), "can match empty text"},
      {split(R"({"String": ""})", R"("Isolated")"), "can match empty text"},
      {split(R"({"Regex": "\\C"})", R"("Isolated")"), "bad pattern"},
      {split(R"({"Regex": 1})", R"("Isolated")"), "pattern.Regex: expected a string"},
      {split(R"("x")", R"("Isolated")"), "pattern: expected an object, found string"},
      {split(R"({"String": "x"})", R"("MergedWithPrevious")"),
       "behavior: 'MergedWithPrevious' is not supported"},
      {split(R"({"String": "x"})", "1"), "behavior: expected a string"},
  };
  for (const Case& c : cases) {
    EXPECT_NE(ErrorOf(c.json).find(c.error), std::string::npos)
        << c.json << ": " << ErrorOf(c.json);
  }
}

}  // namespace
}  // namespace treeline
