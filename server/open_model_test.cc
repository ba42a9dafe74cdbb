#include "server/open_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "engine/base/json.h"

namespace treeline {
namespace {

using ::testing::HasSubstr;

std::string Folder(const std::string& name) { return "tests/testdata/checkpoints/" + name; }

ServeConfig Config(const std::string& drafter) {
  ServeConfig config;
  config.mutable_engine()->set_model(Folder("hybrid"));
  config.mutable_engine()->set_max_slots(3);
  config.set_drafter(drafter);
  return config;
}

std::string ErrorOf(const ServeConfig& config) {
  const auto model = OpenModel(config);
  EXPECT_EQ(model.status().code(), StatusCode::kInvalidArgument) << model.status();
  return Message(model.status());
}

TEST(OpenModel, DraftsByHeadsWhereThereIsNoDraftModel) {
  const EngineLimits limits = OpenModel(Config("auto"))->engine->limits();
  EXPECT_EQ(limits.num_draft_heads, 3);
  EXPECT_FALSE(limits.draft_model);
}

TEST(OpenModel, ADraftModelGuessesInPlaceOfHeads) {
  for (const char* drafter : {"auto", "draft_model"}) {
    ServeConfig config = Config(drafter);
    config.set_draft_model(Folder("softmax"));
    const auto model = OpenModel(config);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->engine->limits().num_draft_heads, 0);
    EXPECT_TRUE(model->engine->limits().draft_model);
    EXPECT_EQ(model->engine->free_slots(), 3);
  }
  ServeConfig config = Config("medusa");
  config.set_draft_model(Folder("softmax"));
  EXPECT_FALSE(OpenModel(config)->engine->limits().draft_model);
}

TEST(OpenModel, ADraftModelThatIsNoneIsRefusedByName) {
  EXPECT_THAT(ErrorOf(Config("draft_model")), HasSubstr("name the model by --draft-model"));
  ServeConfig config = Config("draft_model");
  config.set_draft_model("no/such/folder");
  const auto model = OpenModel(config);
  EXPECT_EQ(model.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(Message(model.status()), HasSubstr("--draft-model no/such/folder"));
}

// A copy of a checkpoint whose tokenizer calls two tokens by each other's names.
std::string WithOtherTokens() {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "other_tokens";
  fs::remove_all(folder);
  fs::create_directory(folder);
  for (const auto& entry : fs::directory_iterator(Folder("softmax"))) {
    fs::copy_file(fs::canonical(entry.path()), folder / entry.path().filename());
  }
  const std::string file = folder / "tokenizer.json";
  Json tokenizer = ParseJsonFile(file).value();
  Json& vocab = tokenizer["model"]["vocab"];
  const Json a = vocab["a"];
  vocab["a"] = vocab["b"];
  vocab["b"] = a;
  fs::permissions(file, fs::perms::owner_write, fs::perm_options::add);
  std::ofstream(file) << tokenizer;
  return folder;
}

TEST(OpenModel, ADraftModelOfAnotherTokenizerIsRefused) {
  ServeConfig config = Config("auto");
  config.set_draft_model(WithOtherTokens());
  const std::string error = ErrorOf(config);
  EXPECT_THAT(error, HasSubstr("--draft-model"));
  EXPECT_THAT(error, HasSubstr(R"(of its tokenizer is "b", of the model's "a")"));
}

TEST(OpenModel, AStaticTreeMustFitTheHeads) {
  ServeConfig config = Config("medusa");
  config.set_draft_tree("mc_sim_7b_63");
  EXPECT_THAT(ErrorOf(config), HasSubstr("takes 4 draft heads, but the model has 3"));
  const std::string file = testing::TempDir() + "/tree.json";
  std::ofstream(file) << "[[0], [0, 0], [1]]";
  config.set_draft_tree(file);
  EXPECT_TRUE(OpenModel(config).ok());
  std::ofstream(file) << "[[0, 0]]";
  EXPECT_THAT(ErrorOf(config), HasSubstr("--draft-tree: " + file + ": path 0"));
  config.set_draft_tree("no/such.json");
  EXPECT_EQ(OpenModel(config).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace treeline
