#include "engine/text/added_tokens.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace treeline {
namespace {

using Parts = std::vector<std::string>;

// The segments, tokens in brackets.
Parts Split(const std::string& json, std::string_view text, bool parse_special = true) {
  const Normalizer normalizer;
  auto tokens = AddedTokens::FromJson(Json::parse(json), normalizer);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  Parts parts;
  EXPECT_TRUE(tokens
                  ->Split(text, parse_special, normalizer,
                          [&](const AddedTokens::Segment& segment) {
                            const std::string part(segment.text);
                            parts.push_back(segment.token != nullptr ? "[" + part + "]" : part);
                            return OkStatus();
                          })
                  .ok());
  return parts;
}

TEST(AddedTokens, FindsTheLongestAtEachPlace) {
  const std::string json = R"([{"id": 1, "content": "<a"}, {"id": 2, "content": "<a>"},
                               {"id": 3, "content": "a><b>"}])";
  EXPECT_EQ(Split(json, "x<a><b>y"), (Parts{"x", "[<a>]", "<b>y"}));
  EXPECT_EQ(Split(json, "<<a<a>"), (Parts{"<", "[<a]", "[<a>]"}));
  EXPECT_EQ(Split(json, "a><b>"), (Parts{"[a><b>]"}));
  EXPECT_EQ(Split(json, "a><b"), (Parts{"a><b"}));
  EXPECT_EQ(Split(json, ""), Parts{});
}

TEST(AddedTokens, LeavesSpecialOnesInTheTextUnlessParsed) {
  const std::string json = R"([{"id": 1, "content": "<s>", "special": true},
                               {"id": 2, "content": "<s>!", "special": false, "normalized": false},
                               {"id": 3, "content": "<t>"}])";
  EXPECT_EQ(Split(json, "<s>a<t><s>!", true), (Parts{"[<s>]", "a", "[<t>]", "[<s>!]"}));
  EXPECT_EQ(Split(json, "<s>a<t><s>!", false), (Parts{"<s>a", "[<t>]", "[<s>!]"}));
}

// As Hugging Face's tokenizers cut this text.
TEST(AddedTokens, TakesTheSpaceAroundWhereAsked) {
  const std::string json =
      R"([{"id": 1, "content": "XX", "lstrip": true, "rstrip": true, "normalized": false},
          {"id": 2, "content": "YY", "normalized": true}])";
  EXPECT_EQ(Split(json, "aXXb  XX  cYYXX"),
            (Parts{"a", "[XX]", "b", "[  XX  ]", "c", "[YY]", "[XX]"}));
  EXPECT_EQ(Split(json, "a\u3000XX\u00A0\n"), (Parts{"a", "[\u3000XX\u00A0\n]"}));
}

TEST(AddedTokens, LooksForNormalizedOnesLast) {
  const std::string json = R"([{"id": 1, "content": "abc", "normalized": true},
                               {"id": 2, "content": "bc", "normalized": false}])";
  EXPECT_EQ(Split(json, "abc"), (Parts{"a", "[bc]"}));
}

// "é" is found in both its forms where the token is normalized, and as it is written where not.
TEST(AddedTokens, NormalizesWhatLiesBetween) {
  const Normalizer normalizer = *Normalizer::FromJson(Json::parse(R"({"type": "NFC"})"));
  const auto tokens =
      AddedTokens::FromJson(Json::parse(R"([{"id": 1, "content": "e\u0301", "normalized": true},
                                            {"id": 2, "content": "o\u0308", "normalized": false}])"),
                            normalizer);
  struct Part {
    std::string text;
    int32_t id;
    bool at_start;
    bool operator==(const Part&) const = default;
  };
  std::vector<Part> parts;
  const auto visit = [&](const AddedTokens::Segment& segment) {
    parts.push_back(
        {std::string(segment.text), segment.token ? segment.token->id : 0, segment.at_start});
    return OkStatus();
  };
  ASSERT_TRUE(tokens->Split("xu\u0308e\u0301yo\u0308é", true, normalizer, visit).ok());
  EXPECT_EQ(parts, (std::vector<Part>{{"xü", 0, true},
                                      {"é", 1, false},
                                      {"y", 0, false},
                                      {"o\u0308", 2, false},
                                      {"é", 1, false}}));
}

TEST(AddedTokens, StopsAtTheFirstError) {
  const auto tokens = AddedTokens::FromJson(Json::parse(R"([{"id": 1, "content": "b"}])"), {});
  int visits = 0;
  const Status status = tokens->Split("abc", true, {}, [&](const AddedTokens::Segment&) {
    ++visits;
    return InvalidArgument("no");
  });
  EXPECT_EQ(Message(status), "no");
  EXPECT_EQ(visits, 1);
}

TEST(AddedTokens, RefusesMalformedOnesByField) {
  struct Case {
    const char* json;
    const char* error;
  };
  const std::vector<Case> cases = {
      {"{}", "added_tokens: expected an array, found object"},
      {"[1]", "added_tokens[0]: expected an object, found number"},
      {R"([{"content": "a"}])", "added_tokens[0].id: expected a token id"},
      {R"([{"id": 99999999, "content": "a"}])", "added_tokens[0].id: token id 99999999 is larger"},
      {R"([{"id": 1}])", "added_tokens[0].content: expected a string"},
      {R"([{"id": 1, "content": ""}])", "added_tokens[0].content: 0 bytes long"},
      {R"([{"id": 1, "content": "a", "special": "yes"}])",
       "added_tokens[0].special: expected a boo"},
      {R"([{"id": 1, "content": "a", "single_word": true}])", "added_tokens[0].single_word"},
      {R"([{"id": 1, "content": "a"}, {"id": 1, "content": "b"}])", "added_tokens[1]: the id 1"},
      {R"([{"id": 1, "content": "a"}, {"id": 2, "content": "a"}])", "added_tokens[1]: the id 2"},
  };
  for (const Case& c : cases) {
    const Status status = AddedTokens::FromJson(Json::parse(c.json), {}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.json;
    EXPECT_NE(Message(status).find(c.error), std::string::npos) << c.json << ": " << status;
  }
}

}  // namespace
}  // namespace treeline
