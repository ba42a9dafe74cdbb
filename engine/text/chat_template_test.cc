#include "engine/text/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "engine/base/file.h"

namespace treeline {
namespace {

const std::string kTestdata = "tests/testdata/chat_templates/";

OrderedJson ReadOrdered(const std::string& path) {
  return ParseOrderedJson(ReadFile(path).value(), path).value();
}

// A golden's context, which holds the inputs and more variables.
ChatTemplate::Inputs ReadInputs(const std::string& context) {
  OrderedJson variables = ReadOrdered(kTestdata + "contexts/" + context + ".json");
  ChatTemplate::Inputs inputs;
  inputs.messages = variables.at("messages");
  inputs.tools = variables.value("tools", OrderedJson());
  inputs.add_generation_prompt = variables.at("add_generation_prompt");
  inputs.bos_token = variables.at("bos_token");
  inputs.eos_token = variables.at("eos_token");
  inputs.now_unix_seconds = 1'721'995'200;  // 2024-07-26 12:00 UTC.
  for (const char* name :
       {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}) {
    variables.erase(name);
  }
  inputs.extra = variables;
  return inputs;
}

// The goldens leave `tools` undefined where there are none; Render passes none, as Hugging Face
// does, which only these templates tell apart: they loop over it.
bool NeedsTools(const std::string& name) { return name.find("NousResearch-Hermes") == 0; }

TEST(ChatTemplate, RendersTheGoldens) {
  std::ifstream goldens(kTestdata + "goldens_jinja2.jsonl");
  int rendered_count = 0;
  for (std::string line; std::getline(goldens, line);) {
    const OrderedJson golden = ParseOrderedJson(line, "golden").value();
    const auto name = golden.at("template").get<std::string>();
    const auto context = golden.at("context").get<std::string>();
    SCOPED_TRACE(name + " with " + context);
    const auto chat_template =
        ChatTemplate::Parse(ReadFile(kTestdata + "templates/" + name).value());
    ASSERT_TRUE(chat_template.ok()) << Message(chat_template.status());
    const ChatTemplate::Inputs inputs = ReadInputs(context);
    const StatusOr<std::string> prompt = chat_template->Render(inputs);
    if (!golden.contains("rendered") || (NeedsTools(name) && inputs.tools.is_null())) {
      EXPECT_EQ(prompt.status().code(), StatusCode::kInvalidArgument);
      continue;
    }
    ASSERT_TRUE(prompt.ok()) << Message(prompt.status());
    EXPECT_EQ(*prompt, golden["rendered"].get<std::string>());
    ++rendered_count;
  }
  EXPECT_EQ(rendered_count, 210);
}

TEST(ChatTemplate, ShowsTheVariablesOfHuggingFace) {
  const auto chat_template = ChatTemplate::Parse(
      "{{ messages }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ bos_token }}"
      "{{ eos_token }}{{ date_string }}{{ strftime_now('%Y') }}");
  ChatTemplate::Inputs inputs;
  inputs.messages = OrderedJson::array();
  inputs.add_generation_prompt = false;
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  inputs.extra = {{"date_string", "today"}};
  EXPECT_EQ(*chat_template->Render(inputs), "[]NoneNoneFalse<s></s>today1970");
  inputs.extra = {{"bos_token", "other"}};
  EXPECT_EQ(*chat_template->Render(inputs), "[]NoneNoneFalseother</s>1970");
}

TEST(ChatTemplate, RefusesExtraVariablesThatAreNoObject) {
  ChatTemplate::Inputs inputs;
  inputs.extra = OrderedJson::array({1});
  EXPECT_EQ(ChatTemplate::Parse("x")->Render(inputs).status().code(), StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, SaysWhereATemplateRaises) {
  const auto chat_template = ChatTemplate::Parse("\n{{ raise_exception('No system role') }}");
  EXPECT_EQ(Message(chat_template->Render({}).status()), "chat template: line 2: No system role");
}

// A model folder with the files given.
class ModelFolder : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/chat_template_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name) << text;
  }
  Status LoadStatus() { return ChatTemplate::Load(directory_).status(); }
  std::string RenderLoaded() { return ChatTemplate::Load(directory_)->Render({}).value(); }

  std::string directory_;
};

TEST_F(ModelFolder, PrefersTheTemplateFile) {
  Write("chat_template.jinja", "file\n");
  Write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(RenderLoaded(), "file");
}

TEST_F(ModelFolder, ReadsTheTemplateOfTheTokenizerConfig) {
  Write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(RenderLoaded(), "config");
}

TEST_F(ModelFolder, TakesTheDefaultOfNamedTemplates) {
  Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]})");
  EXPECT_EQ(RenderLoaded(), "plain");
}

TEST_F(ModelFolder, SaysThatThereIsNoTemplate) {
  EXPECT_EQ(LoadStatus().code(), StatusCode::kNotFound);
  for (const char* config : {"{}", "[]", R"({"chat_template": null})",
                             R"({"chat_template": [{"name": "rag", "template": "x"}]})",
                             R"({"chat_template": ["x", {"name": "default"}]})"}) {
    Write("tokenizer_config.json", config);
    EXPECT_EQ(LoadStatus().code(), StatusCode::kNotFound) << config;
  }
}

TEST_F(ModelFolder, NamesTheFileOfAMalformedTemplate) {
  Write("chat_template.jinja", "a\n{% if %}");
  EXPECT_EQ(LoadStatus().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(LoadStatus()).find("chat_template.jinja: chat template: line 2"),
            std::string::npos)
      << Message(LoadStatus());
}

TEST_F(ModelFolder, RefusesAConfiguredTemplateOfAnotherType) {
  Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_EQ(LoadStatus().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace treeline
