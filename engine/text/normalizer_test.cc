#include "engine/text/normalizer.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace treeline {
namespace {

std::string Apply(const std::string& json, std::string_view text) {
  const auto normalizer = Normalizer::FromJson(Json::parse(json));
  EXPECT_TRUE(normalizer.ok()) << normalizer.status();
  return *normalizer->Apply(text, true);
}

TEST(Normalizer, AppliesItsStepsInOrder) {
  EXPECT_EQ(Apply("null", "a b"), "a b");
  EXPECT_EQ(Apply(R"({"type": "NFC"})", "e\u0301"), "é");
  EXPECT_EQ(Apply(R"({"type": "Sequence", "normalizers": [
                        {"type": "Prepend", "prepend": "▁"},
                        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})",
                  "a  b "),
            "▁a▁▁b▁");
  EXPECT_EQ(Apply(R"({"type": "Prepend", "prepend": "x"})", ""), "");
  EXPECT_TRUE(Normalizer::FromJson(nullptr)->changes_nothing());
  EXPECT_TRUE(Normalizer::FromJson(Json::parse(R"({"type": "Sequence", "normalizers": []})"))
                  ->changes_nothing());
}

TEST(Normalizer, ReplacesFromLeftToRight) {
  EXPECT_EQ(ReplaceAll("aaaa b", "aa", "b"), "bb b");
  EXPECT_EQ(ReplaceAll("aab", "ab", ""), "a");
  EXPECT_EQ(ReplaceAll("", "a", "b"), "");
}

TEST(Normalizer, BoundsWhatATextGrowsTo) {
  std::string steps;
  for (int i = 0; i < 60; ++i) {
    steps += R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},)";
  }
  steps.pop_back();
  const auto normalizer =
      Normalizer::FromJson(Json::parse(R"({"type": "Sequence", "normalizers": [)" + steps + "]}"));
  const Status status = normalizer->Apply("aaaaaaaa", true).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("makes more than 576 bytes of the text"), std::string::npos);
}

TEST(Normalizer, RefusesWhatItDoesNotKnowByName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "normalizer: expected an object, found array"},
      {"{}", "normalizer.type: expected a string"},
      {R"({"type": "NFKC"})", "normalizer: 'NFKC' is not supported"},
      {R"({"type": "Sequence"})", "normalizer.normalizers: expected an array"},
      {R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})",
       "normalizer.normalizers[0]: 'Lowercase' is not supported"},
      {R"({"type": "Prepend"})", "normalizer.prepend: expected a string"},
      {R"({"type": "Prepend", "prepend": ")" + std::string(65, 'a') + "\"}",
       "normalizer.prepend: 65 bytes long"},
      {R"({"type": "Replace", "content": ""})", "normalizer.pattern: expected an object"},
      {R"({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""})",
       "normalizer.pattern.String: expected a string"},
      {R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})",
       "normalizer.pattern.String: is empty"},
      {R"({"type": "Replace", "pattern": {"String": "a"}})",
       "normalizer.content: expected a string"},
  };
  for (const auto& [json, error] : cases) {
    const Status status = Normalizer::FromJson(Json::parse(json)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << json;
    EXPECT_NE(Message(status).find(error), std::string::npos) << json << ": " << status;
  }
}

}  // namespace
}  // namespace treeline
