#include "engine/base/json.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace treeline {
namespace {

TEST(ParseJson, ReadsAValue) {
  auto value = ParseJson(R"({"a": [1, 2.5, "x"]})", "body");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ((*value)["a"][2], "x");
}

TEST(ParseJson, NamesTheSourceAndPlaceOfBadSyntax) {
  auto value = ParseJson(R"({"a": )", "the request body");
  ASSERT_EQ(value.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(value.status()).find("the request body: not valid JSON at byte"),
            std::string::npos);
}

TEST(ParseJson, RefusesBytesThatAreNotUtf8) {
  EXPECT_EQ(ParseJson("{\"a\": \"\xff\xfe\"}", "body").status().code(),
            StatusCode::kInvalidArgument);
}

TEST(ParseJson, RefusesDeepNestingWithoutRecursing) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  auto value = ParseJson(deep, "body");
  ASSERT_EQ(value.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(value.status()).find("nested deeper than 64"), std::string::npos);
}

TEST(ParseJson, AcceptsNestingUpToTheLimit) {
  EXPECT_TRUE(ParseJson("[[1]]", "body", 2).ok());
  EXPECT_FALSE(ParseJson("[[[1]]]", "body", 2).ok());
}

TEST(ParseOrderedJson, KeepsTheOrderOfMembers) {
  auto value = ParseOrderedJson(R"({"z": 1, "a": {"y": 2, "b": 3}})", "body");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(value->dump(), R"({"z":1,"a":{"y":2,"b":3}})");
}

TEST(ParseOrderedJson, RefusesDeepNesting) {
  EXPECT_TRUE(ParseOrderedJson("[[1]]", "body", 2).ok());
  EXPECT_FALSE(ParseOrderedJson("[[[1]]]", "body", 2).ok());
}

TEST(ParseOrderedJson, LimitsTheMembersOfOneObject) {
  auto object_of = [](int members) {
    std::string text = "{";
    for (int i = 0; i < members; ++i) {
      text += fmt::format("{}\"k{}\": {{\"x\": 0}}", i == 0 ? "" : ",", i);
    }
    return text + "}";
  };
  EXPECT_TRUE(ParseOrderedJson(object_of(kMaxOrderedJsonMembers), "body").ok());
  auto refused = ParseOrderedJson(object_of(kMaxOrderedJsonMembers + 1), "the request body");
  ASSERT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(refused.status()).find("the request body: a JSON object with more than 1024"),
            std::string::npos);
}

TEST(ParseJson, LimitsLookPastStrings) {
  EXPECT_TRUE(ParseJson(R"(["[[[[", "\\\"[[[[", "\\\\"])", "body", 1).ok());
}

// nlohmann's callback parser rescans the parent at each object's end: 22 s for such a text.
// Here a test that hangs is a test that fails.
TEST(ParseJson, ManySmallObjectsTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) {
    text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":{}";
  }
  const auto value = ParseJson(text + "}", "body");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(value->size(), 200'000u);
}

TEST(ParseJsonFile, RefusesAFileTooLargeToRead) {
  const std::string path = testing::TempDir() + "/huge.json";
  std::ofstream(path) << "{}";
  std::filesystem::resize_file(path, size_t{1} << 40);  // Sparse: takes no space.
  EXPECT_EQ(ParseJsonFile(path).status().code(), StatusCode::kInvalidArgument);
  std::filesystem::remove(path);
}

TEST(ParseJsonFile, SaysWhichFileIsMissing) {
  auto value = ParseJsonFile("/no/such/config.json");
  ASSERT_EQ(value.status().code(), StatusCode::kNotFound);
  EXPECT_NE(Message(value.status()).find("/no/such/config.json"), std::string::npos);
}

}  // namespace
}  // namespace treeline
