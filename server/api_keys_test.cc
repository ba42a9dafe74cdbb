#include "server/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace treeline {
namespace {

using ::testing::HasSubstr;

// As `printf %s KEY | sha256sum` has it.
constexpr char kSecret[] = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
constexpr char kPassword[] = "5E884898DA28047151D0E56F8DC6292773603D0D6AABBDD62A11EF721D1542D8";

std::string WriteKeys(const std::string& text) {
  const std::string path = ::testing::TempDir() + "/keys";
  std::ofstream(path) << text;
  return path;
}

std::string ErrorOf(const std::string& text) {
  const auto keys = ApiKeys::Read(WriteKeys(text));
  EXPECT_EQ(keys.status().code(), StatusCode::kInvalidArgument) << text;
  return Message(keys.status());
}

TEST(ApiKeysTest, KeysAreKnownByTheirDigests) {
  const auto keys = *ApiKeys::Read(WriteKeys(std::string("# ours\n\n alice ") + kSecret + "\r\n" +
                                             "batch\t" + kPassword + " 60 100000"));
  EXPECT_EQ(keys->size(), 2u);
  ASSERT_TRUE(keys->Find("secret").has_value());
  EXPECT_EQ(keys->Find("secret")->name, "alice");
  EXPECT_EQ(keys->Find("secret")->requests_per_minute, 0);
  EXPECT_EQ(keys->Find("secret")->tokens_per_minute, 0);
  EXPECT_EQ(keys->Find("password")->name, "batch");
  EXPECT_EQ(keys->Find("password")->requests_per_minute, 60);
  EXPECT_EQ(keys->Find("password")->tokens_per_minute, 100000);
  for (const char* wrong : {"", "secre", "secrets", "Secret", kSecret}) {
    EXPECT_FALSE(keys->Find(wrong).has_value()) << wrong;
  }
}

TEST(ApiKeysTest, ReloadTakesTheNewFileOrKeepsTheOldKeys) {
  const std::string path = WriteKeys(std::string("alice ") + kSecret);
  const auto keys = *ApiKeys::Read(path);
  WriteKeys(std::string("bob ") + kPassword);
  EXPECT_FALSE(keys->Find("password").has_value());  // Not before it is told to.
  EXPECT_EQ(keys->Reload(), OkStatus());
  EXPECT_FALSE(keys->Find("secret").has_value());
  EXPECT_EQ(keys->Find("password")->name, "bob");
  WriteKeys("nonsense");
  EXPECT_EQ(keys->Reload().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(keys->Find("password")->name, "bob");
}

TEST(ApiKeysTest, WhatIsWrongIsNamedWithoutRepeatingIt) {
  EXPECT_THAT(ErrorOf("# nobody\n"), HasSubstr("no API key"));
  const std::string plain = ErrorOf("# ours\nsk-plain-key\n");
  EXPECT_THAT(plain, HasSubstr("keys:2: not NAME SHA256"));
  EXPECT_EQ(plain.find("sk-plain-key"), std::string::npos);
  EXPECT_THAT(ErrorOf(std::string("a ") + kSecret + "0"), HasSubstr("keys:1"));
  EXPECT_THAT(ErrorOf("a " + std::string(64, 'g')), HasSubstr("keys:1"));
  EXPECT_THAT(ErrorOf(std::string("a ") + kSecret + " -1"), HasSubstr("'-1' is not a limit"));
  EXPECT_THAT(ErrorOf(std::string("a ") + kSecret + " 1 1x"), HasSubstr("'1x' is not a limit"));
  EXPECT_THAT(ErrorOf(std::string("a ") + kSecret + " 1 1 1"), HasSubstr("keys:1"));
  EXPECT_THAT(ErrorOf(std::string("a ") + kSecret + "\na " + kPassword), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf(std::string("a ") + kSecret + "\nb " + kSecret), HasSubstr("twice"));
  EXPECT_EQ(ApiKeys::Read("/no/such/file").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace treeline
