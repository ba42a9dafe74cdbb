#include "server/openapi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "server/tokenize_request.h"

namespace treeline {
namespace {

using ::testing::Contains;
using ::testing::IsSupersetOf;

const RequestLimits kLimits{.vocab_size = 100, .defaults = {}};

std::set<std::string> Names(const Json& object) {
  std::set<std::string> names;
  for (const auto& [name, value] : object.items()) names.insert(name);
  return names;
}

// A value that the schema of a field allows.
Json Example(const Json& schema) {
  if (schema.contains("anyOf")) return Example(schema["anyOf"][0]);
  if (schema.contains("enum")) return schema["enum"][0];
  if (schema.contains("const")) return schema["const"];
  const Json type = schema["type"].is_array() ? schema["type"][0] : schema["type"];
  if (type == "boolean") return true;
  if (type == "string") return "x";
  if (type == "integer" || type == "number") return schema["maximum"];
  if (type == "array") {
    return schema.value("minItems", 0) > 0 ? Json::array({Example(schema["items"])})
                                           : Json::array();
  }
  Json object = Json::object();
  for (const Json& name : schema.value("required", Json::array())) {
    object[name.get<std::string>()] = Example(schema["properties"][name.get<std::string>()]);
  }
  return object;
}

// What is described is what is parsed: a body of one more field, with a value at its bound, is
// accepted, and the field is not unknown; a value of another type is refused by name.
TEST(OpenApiTest, TheParserKnowsEveryFieldAsDescribed) {
  for (const ApiKind kind : {ApiKind::kCompletion, ApiKind::kChat}) {
    const Json schema = OpenAiRequestSchema(kind, kLimits);
    const Json least = Example(schema);
    for (const auto& [name, field] : schema["properties"].items()) {
      Json body = least;
      body[name] = Example(field);
      if (name == "stream_options") body["stream"] = true;
      if (name == "top_logprobs") body["logprobs"] = true;
      if (name == "min_tokens") body["max_tokens"] = body[name];
      if (name == "best_of") body["n"] = body[name];
      if (name == "suffix") body[name] = "";
      const auto parsed = ParseOpenAiRequest(kind, body, kLimits);
      ASSERT_TRUE(parsed.ok()) << body << parsed.status();
      EXPECT_TRUE(parsed->unknown_fields.empty()) << name;

      body[name] = field.contains("properties") ? Json(1) : Json{{"a", "b"}};
      const auto wrong = ParseOpenAiRequest(kind, body, kLimits);
      EXPECT_FALSE(wrong.ok()) << body;
      EXPECT_NE(Message(wrong.status()).find(name), std::string::npos) << wrong.status();

      if (field.contains("maximum") && field["maximum"] < 1'000'000) {
        body[name] = field["maximum"].get<double>() + 1;
        EXPECT_FALSE(ParseOpenAiRequest(kind, body, kLimits).ok()) << body;
      }
    }
  }
}

TEST(OpenApiTest, FieldsThatClientsSendAreDescribed) {
  const auto chat = Names(OpenAiRequestSchema(ApiKind::kChat, kLimits)["properties"]);
  EXPECT_THAT(chat, IsSupersetOf({"model", "messages", "max_tokens", "max_completion_tokens",
                                  "stream", "stream_options", "temperature", "top_p", "seed",
                                  "logprobs", "top_logprobs", "speculation", "stop", "n"}));
  const Json completion = OpenAiRequestSchema(ApiKind::kCompletion, kLimits)["properties"];
  EXPECT_THAT(Names(completion), IsSupersetOf({"prompt", "echo", "logprobs", "stop_token_ids"}));
  EXPECT_EQ(completion["temperature"],
            Json::parse(R"({"type": ["number", "null"], "minimum": 0.0, "maximum": 2.0})"));
  EXPECT_EQ(completion["stream_options"]["properties"]["include_usage"]["type"],
            Json::parse(R"(["boolean", "null"])"));
  EXPECT_EQ(completion["stop_token_ids"]["items"]["maximum"], 99);
}

TEST(OpenApiTest, EveryReferenceHasItsSchema) {
  const Json document = OpenApiDocument("1.2", kLimits);
  EXPECT_EQ(document["openapi"], "3.1.0");
  EXPECT_EQ(document["info"]["version"], "1.2");
  const std::set<std::string> schemas = Names(document["components"]["schemas"]);
  const std::string text = document.dump();
  const std::string prefix = "\"#/components/schemas/";
  int references = 0;
  for (size_t at = text.find(prefix); at != std::string::npos; at = text.find(prefix, at + 1)) {
    const size_t begin = at + prefix.size();
    EXPECT_THAT(schemas, Contains(text.substr(begin, text.find('"', begin) - begin)));
    ++references;
  }
  EXPECT_GT(references, 20);
}

TEST(OpenApiTest, TokenizeBodiesAreParsedAsDescribed) {
  EXPECT_EQ(Names(TokenizeRequestSchema()["properties"]),
            (std::set<std::string>{"add_special_tokens", "messages", "model", "prompt"}));
  EXPECT_TRUE(ParseTokenizeRequest(Json::parse(R"({"prompt": ""})")).ok());
  EXPECT_FALSE(ParseTokenizeRequest(Json::parse(R"({})")).ok());
  EXPECT_FALSE(ParseTokenizeRequest(Json::parse(R"({"prompt": "x", "messages": []})")).ok());
  EXPECT_EQ(DetokenizeRequestSchema(100)["properties"]["tokens"]["items"]["maximum"], 99);
  EXPECT_TRUE(ParseDetokenizeRequest(Json::parse(R"({"tokens": [99]})"), 100).ok());
  EXPECT_FALSE(ParseDetokenizeRequest(Json::parse(R"({"tokens": [100]})"), 100).ok());
}

}  // namespace
}  // namespace treeline
