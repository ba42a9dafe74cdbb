#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "proto/config.pb.h"

namespace treeline {
namespace {

using ::testing::HasSubstr;

Status Parse(const std::vector<std::string>& args, ServeConfig* config) {
  return ParseFlags(args, config);
}

// The message of the error that `args` must give.
std::string ErrorOf(const std::vector<std::string>& args) {
  ServeConfig config;
  const Status status = Parse(args, &config);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  return Message(status);
}

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

TEST(FlagsTest, BothSpellingsOfEveryType) {
  ServeConfig config;
  ASSERT_EQ(
      Parse({"--model", "m", "--port=0", "--max-body-bytes", "4096", "--host=::1",
             "--drain-timeout-seconds", "2.5", "--served-model-name=a", "--served-model-name", "b"},
            &config),
      OkStatus());
  EXPECT_EQ(config.engine().model(), "m");
  EXPECT_EQ(config.port(), 0);
  EXPECT_EQ(config.max_body_bytes(), 4096);
  EXPECT_EQ(config.host(), "::1");
  EXPECT_EQ(config.drain_timeout_seconds(), 2.5);
  ASSERT_EQ(config.served_model_name_size(), 2);
  EXPECT_EQ(config.served_model_name(1), "b");

  GenerateConfig generate;
  ASSERT_EQ(ParseFlags({"--raw", "--model", "m", "--seed", "18446744073709551615"}, &generate),
            OkStatus());
  EXPECT_TRUE(generate.raw());
  EXPECT_EQ(generate.sampling().seed(), 18446744073709551615u);
  ASSERT_EQ(ParseFlags({"--raw=false", "--model", "m"}, &generate), OkStatus());
  EXPECT_FALSE(generate.raw());
}

TEST(FlagsTest, ErrorsNameTheFlag) {
  EXPECT_EQ(ErrorOf({"--model", "m", "--prot", "1"}), "unknown flag --prot; did you mean --port?");
  EXPECT_EQ(ErrorOf({"--xyzzyxyzzy"}), "unknown flag --xyzzyxyzzy; --help lists the flags");
  EXPECT_EQ(ErrorOf({"--model", "m", "--port", "eighty"}), "--port: 'eighty' is not a value for N");
  EXPECT_EQ(ErrorOf({"--model", "m", "--port", "80x"}), "--port: '80x' is not a value for N");
  EXPECT_EQ(ErrorOf({"--model", "m", "--port", "65536"}), "--port: 65536 is not in 0 to 65535");
  EXPECT_EQ(ErrorOf({"--model", "m", "--drain-timeout-seconds", "nan"}),
            "--drain-timeout-seconds: nan is not in 0 to 1000000");
  EXPECT_EQ(ErrorOf({"--model", "m", "--device=tpu"}), "--device: 'tpu' is none of cpu|cuda");
  EXPECT_EQ(ErrorOf({"--port"}), "--port needs a value");
  EXPECT_EQ(ErrorOf({"--port", "1"}), "--model PATH is needed");
  EXPECT_THAT(ErrorOf({"8080"}), HasSubstr("'8080' is not a flag"));
}

TEST(FlagsTest, FlagsWinOverTheFileWhereverTheyStand) {
  const std::string path = WriteFile("wins.textproto", R"(
      port: 1 host: "file" served_model_name: "file" engine { model: "file" threads: 3 })");
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"--port=2", "--served-model-name=flag", "--config", path},
        std::vector<std::string>{"--config=" + path, "--port=2", "--served-model-name=flag"}}) {
    ServeConfig config;
    ASSERT_EQ(Parse(args, &config), OkStatus());
    EXPECT_EQ(config.port(), 2);
    EXPECT_EQ(config.host(), "file");
    EXPECT_EQ(config.engine().threads(), 3);
    ASSERT_EQ(config.served_model_name_size(), 1);
    EXPECT_EQ(config.served_model_name(0), "flag");
  }
}

TEST(FlagsTest, BadFilesNameTheirPlace) {
  ServeConfig config;
  EXPECT_THAT(Message(ParseTextConfig("port: 1\nprot: 2\n", "x.textproto", &config)),
              HasSubstr("x.textproto:2:"));
  EXPECT_THAT(Message(ParseTextConfig("port: \"a\"", "x.textproto", &config)),
              HasSubstr("x.textproto:1:7"));
  const std::string path = WriteFile("range.textproto", "port: 70000 engine { model: \"m\" }");
  EXPECT_EQ(ErrorOf({"--config", path}), "--port: 70000 is not in 0 to 65535");
  EXPECT_EQ(Parse({"--config", "/no/such/file"}, &config).code(), StatusCode::kNotFound);
}

TEST(FlagsTest, HelpListsEveryFlagWithItsDefault) {
  const std::string help = FlagsHelp(ServeConfig());
  EXPECT_THAT(help, HasSubstr("--max-context N "));
  EXPECT_THAT(help, HasSubstr("--device cpu|cuda "));
  EXPECT_THAT(help, HasSubstr("the port to listen on; 0: any free one (default 8080)\n"));
  EXPECT_THAT(help, HasSubstr("--config FILE "));
}

TEST(FlagsTest, Bytes) {
  EXPECT_EQ(ParseBytes("1024").value(), 1024);
  EXPECT_EQ(ParseBytes("3MiB").value(), 3 << 20);
  EXPECT_EQ(ParseBytes("8GiB").value(), int64_t{8} << 30);
  for (const char* bad :
       {"", "GiB", "1GB", "-1", "1.5GiB", "99999999999TiB", "9223372036854775808"}) {
    EXPECT_EQ(ParseBytes(bad).status().code(), StatusCode::kInvalidArgument) << bad;
  }
}

TEST(ConfigFilesTest, EachShippedFileParses) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("configs")) {
    if (entry.path().extension() != ".textproto") continue;
    ServeConfig config;
    EXPECT_EQ(Parse({"--model=m", "--config", entry.path().string()}, &config), OkStatus());
    ++files;
  }
  EXPECT_GE(files, 3);
}

}  // namespace
}  // namespace treeline
