#include "engine/model/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace treeline {
namespace {

// A file: length of the header, header, data.
std::string File(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof(length));
  return file + header + data;
}

std::string Bytes(size_t n) { return std::string(n, '\x01'); }

StatusOr<std::map<std::string, TensorView>> Parse(const std::string& file) {
  return ParseSafetensors(std::as_bytes(std::span(file)), "x.safetensors");
}

// f32 [2, 3] at 0, f16 [] at 24, i64 [0] at 26, bf16 [1] at 26; padded as the format's own
// writer pads.
const std::string& SmallFile() {
  static const std::string file =
      File(R"({"__metadata__":{"format":"pt"},)"
           R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
           R"("b":{"dtype":"F16","shape":[],"data_offsets":[24,26]},)"
           R"("c":{"dtype":"I64","shape":[0],"data_offsets":[26,26]},)"
           R"("d":{"dtype":"BF16","shape":[1],"data_offsets":[26,28]}}   )",
           Bytes(28));
  return file;
}

TEST(ParseSafetensors, ReadsTypesShapesAndBytes) {
  const std::string& file = SmallFile();
  const auto tensors = Parse(file);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  const auto* data = reinterpret_cast<const std::byte*>(file.data() + file.size() - 28);
  const TensorView& a = tensors->at("a");
  EXPECT_EQ(a.type, TensorType::kF32);
  EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(a.num_elements(), 6);
  EXPECT_EQ(a.bytes.data(), data);
  EXPECT_EQ(a.bytes.size(), 24u);
  const TensorView& b = tensors->at("b");
  EXPECT_EQ(b.type, TensorType::kF16);
  EXPECT_EQ(b.num_elements(), 1);
  EXPECT_EQ(b.bytes.data(), data + 24);
  EXPECT_EQ(tensors->at("c").type, TensorType::kOther);
  EXPECT_EQ(tensors->at("c").num_elements(), 0);
  EXPECT_EQ(tensors->at("d").type, TensorType::kBF16);
}

TEST(ParseSafetensors, ReadsAFileWithoutTensors) {
  EXPECT_TRUE(Parse(File("{}", "")).ok());
  EXPECT_TRUE(Parse(File(R"({"__metadata__":{}})", "")).ok());
}

TEST(ParseSafetensors, KnowsTheSizesOfItsTypes) {
  const std::pair<const char*, int> kSizes[] = {
      {"F64", 8}, {"F32", 4}, {"F16", 2},  {"BF16", 2},    {"I64", 8},
      {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U64", 8},     {"U32", 4},
      {"U16", 2}, {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1},
  };
  for (const auto& [dtype, size] : kSizes) {
    const std::string header = fmt::format(
        R"({{"t":{{"dtype":"{}","shape":[3],"data_offsets":[0,{}]}}}})", dtype, 3 * size);
    EXPECT_TRUE(Parse(File(header, Bytes(3 * size))).ok()) << dtype;
  }
}

TEST(ParseSafetensors, RefusesEveryTruncation) {
  for (size_t size = 0; size < SmallFile().size(); ++size) {
    const Status status = Parse(SmallFile().substr(0, size)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << size;
    EXPECT_EQ(Message(status).find("x.safetensors: "), 0) << status;
  }
}

TEST(ParseSafetensors, RefusesBytesAfterTheLastTensor) {
  const Status status = Parse(SmallFile() + "x").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("last 1 bytes"), std::string::npos) << status;
}

TEST(ParseSafetensors, BoundsTheHeader) {
  const std::pair<uint64_t, const char*> kCases[] = {
      {100'000'001, "limit"},
      {std::numeric_limits<uint64_t>::max(), "limit"},
      {std::numeric_limits<uint64_t>::max() - 7, "limit"},
      {99'999'999, "truncated"},
      {SmallFile().size() - 7, "truncated"},
      {0, "not valid JSON"},
      {SmallFile().size() - 8, "not valid JSON"},
  };
  for (const auto& [length, in_message] : kCases) {
    std::string file = SmallFile();
    std::memcpy(file.data(), &length, sizeof(length));
    const Status status = Parse(file).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << length;
    EXPECT_NE(Message(status).find(in_message), std::string::npos) << status;
  }
}

TEST(ParseSafetensors, RefusesHostileHeaders) {
  const struct {
    const char* header;
    size_t data_bytes;
    const char* in_message;
  } kCases[] = {
      {"[]", 0, "must be an object"},
      {"null", 0, "must be an object"},
      {R"({"t":7})", 0, "tensor \"t\": needs dtype"},
      {R"({"t":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor \"t\": needs dtype"},
      {R"({"t":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor \"t\": needs dtype"},
      {R"({"t":{"dtype":"F32","shape":[1]}})", 4, "tensor \"t\": needs dtype"},
      {R"({"t":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype"},
      {R"({"t":{"dtype":5,"shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype"},
      {R"({"t":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"t":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"t":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "data_offsets"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "data_offsets"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 4, "data_offsets"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "data_offsets [4, 0]"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", 4, "lie outside"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,9223372036854775807]}})", 4,
       "lie outside"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}})", 4,
       "data_offsets"},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "do not fit F32 [2]"},
      {R"({"t":{"dtype":"F64","shape":[1],"data_offsets":[0,4]}})", 4, "do not fit"},
      {R"({"t":{"dtype":"F32","shape":[0],"data_offsets":[0,4]}})", 4, "do not fit"},
      // Products that come back to 4 bytes, or to 0, modulo 2^64.
      {R"({"t":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "do not fit"},
      {R"({"t":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4,
       "do not fit"},
      {R"({"t":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", 0,
       "do not fit"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}})",
       5, "tensor \"b\" overlaps"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       4, "overlaps"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       4, "tensor \"b\" overlaps"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
       4, "2 bytes before tensor \"b\""},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2, "1 bytes before"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 2, "last 1 bytes"},
      {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       1, "tensor \"t\" is there twice"},
      {R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("\u0074":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       1, "tensor \"t\" is there twice"},
      {R"({"__metadata__":[]})", 0, "__metadata__"},
      {R"({"__metadata__":{"format":1}})", 0, "__metadata__"},
      {"{\"t\xff\":{}}", 0, "not valid JSON"},
      {R"({"t":)", 0, "not valid JSON"},
      {R"({} {})", 0, "not valid JSON"},
  };
  for (const auto& c : kCases) {
    const Status status = Parse(File(c.header, Bytes(c.data_bytes))).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.header;
    EXPECT_EQ(Message(status).find("x.safetensors: "), 0) << status;
    EXPECT_NE(Message(status).find(c.in_message), std::string::npos) << c.header << status;
  }
}

// int8 [2, 2] and what should be its scales; of `data` the last 8 bytes are theirs.
StatusOr<std::map<std::string, TensorView>> WithScales(const std::string& scales,
                                                       const std::string& data) {
  const std::string header =
      R"({"x":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]},"x.scale":)" + scales + "}";
  static std::string file;  // What the views show.
  file = File(header, data);
  auto tensors = Parse(file);
  if (!tensors.ok()) return tensors;
  TREELINE_RETURN_IF_ERROR(JoinRowScales("x.safetensors", &*tensors));
  return tensors;
}

TEST(JoinRowScales, MakesOneTensorOfRowsAndScales) {
  const std::string scale_bytes = std::string("\0\0\0\x3f\0\0\0\x40", 8);  // 0.5, 2.
  const auto tensors = WithScales(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})",
                                  std::string("\x01\xff\x02\x7f", 4) + scale_bytes);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 1u);
  std::vector<float> values(4);
  CopyToFloat(tensors->at("x"), values);
  EXPECT_EQ(values, (std::vector<float>{0.5f, -0.5f, 4.0f, 254.0f}));
}

TEST(JoinRowScales, RefusesScalesThatDoNotFit) {
  for (const char* scales : {R"({"dtype":"F32","shape":[1,2],"data_offsets":[4,12]})",
                             R"({"dtype":"F16","shape":[4],"data_offsets":[4,12]})",
                             R"({"dtype":"F64","shape":[1],"data_offsets":[4,12]})"}) {
    const Status status = WithScales(scales, Bytes(12)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << scales;
    EXPECT_NE(Message(status).find("x.scale"), std::string::npos) << status;
  }
  const Status infinite = WithScales(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})",
                                     Bytes(4) + std::string("\0\0\x80\x7f\0\0\0\0", 8))
                              .status();
  EXPECT_NE(Message(infinite).find("x.scale\": a value is not finite"), std::string::npos);
}

TEST(ParseSafetensors, RefusesADeepHeader) {
  const std::string deep = "{\"t\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  const Status status = Parse(File(deep, "")).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(Message(status).find("nested deeper"), std::string::npos) << status;
}

class SafetensorsFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_);
  }
  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << bytes;
  }
  // One tensor of one byte.
  void WriteShard(const std::string& file, const std::string& tensor, char value) {
    Write(file, File("{\"" + tensor + R"(":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
                     std::string(1, value)));
  }
  void WriteIndex(const std::string& weight_map) {
    Write("model.safetensors.index.json",
          R"({"metadata": {"total_size": 2}, "weight_map": )" + weight_map + "}");
  }
  void ExpectError(StatusCode code, const std::vector<std::string>& in_message) {
    const Status status = SafetensorsFolder::Open(dir_).status();
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& part : in_message) {
      EXPECT_NE(Message(status).find(part), std::string::npos) << status;
    }
  }
  std::string dir_;
};

TEST_F(SafetensorsFolderTest, OpensASingleFile) {
  Write("model.safetensors", SmallFile());
  auto folder = SafetensorsFolder::Open(dir_);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->tensors().size(), 4u);
  EXPECT_NE(folder->Find("a"), nullptr);
  EXPECT_EQ(folder->Find("e"), nullptr);
}

TEST_F(SafetensorsFolderTest, OpensShards) {
  WriteShard("model-00001-of-00002.safetensors", "a", 5);
  WriteShard("model-00002-of-00002.safetensors", "b", 7);
  WriteIndex(R"({"a": "model-00001-of-00002.safetensors",
                 "b": "model-00002-of-00002.safetensors"})");
  auto opened = SafetensorsFolder::Open(dir_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const SafetensorsFolder folder = *std::move(opened);  // Views survive the move.
  ASSERT_EQ(folder.tensors().size(), 2u);
  EXPECT_EQ(folder.Find("a")->bytes[0], std::byte{5});
  EXPECT_EQ(folder.Find("b")->bytes[0], std::byte{7});
}

TEST_F(SafetensorsFolderTest, NamesMissingFiles) {
  ExpectError(StatusCode::kNotFound, {dir_, "model.safetensors", "index.json"});
  WriteIndex(R"({"a": "one.safetensors"})");
  ExpectError(StatusCode::kNotFound, {dir_ + "/one.safetensors"});
}

TEST_F(SafetensorsFolderTest, NamesAMalformedFile) {
  Write("model.safetensors", "");
  ExpectError(StatusCode::kInvalidArgument, {dir_ + "/model.safetensors", "0 bytes"});
}

TEST_F(SafetensorsFolderTest, RefusesAMalformedIndex) {
  for (const char* index : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})",
                            R"({"weight_map": {"a": 1}})"}) {
    Write("model.safetensors.index.json", index);
    ExpectError(StatusCode::kInvalidArgument, {"model.safetensors.index.json"});
  }
}

TEST_F(SafetensorsFolderTest, RefusesShardsOutsideTheFolder) {
  WriteShard("one.safetensors", "a", 1);
  for (const char* name : {"", ".", "..", "../one.safetensors", "/etc/passwd",
                           "sub/one.safetensors", "./one.safetensors", "one.safetensors\\u0000"}) {
    WriteIndex(fmt::format(R"({{"a": "{}"}})", name));
    ExpectError(StatusCode::kInvalidArgument, {"weight_map", "\"a\"", "beside the index"});
  }
}

TEST_F(SafetensorsFolderTest, RefusesDisagreementOfIndexAndShards) {
  WriteShard("one.safetensors", "a", 1);
  WriteShard("two.safetensors", "b", 2);
  // The index names a tensor that its shard lacks,
  WriteIndex(R"({"a": "one.safetensors", "c": "one.safetensors"})");
  ExpectError(StatusCode::kInvalidArgument, {"\"c\"", "one.safetensors"});
  // lacks one that its shard has,
  WriteIndex(R"({"c": "one.safetensors"})");
  ExpectError(StatusCode::kInvalidArgument, {"\"a\"", "one.safetensors", "index.json"});
  // or puts one into another shard.
  WriteIndex(R"({"a": "two.safetensors", "b": "one.safetensors"})");
  ExpectError(StatusCode::kInvalidArgument, {"\"a\"", "two.safetensors"});
}

TEST_F(SafetensorsFolderTest, RefusesATensorInTwoShards) {
  WriteShard("one.safetensors", "a", 1);
  Write("two.safetensors", File(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},)"
                                R"("b":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}})",
                                Bytes(2)));
  WriteIndex(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  ExpectError(StatusCode::kInvalidArgument, {"two.safetensors", "\"a\"", "one.safetensors"});
}

}  // namespace
}  // namespace treeline
