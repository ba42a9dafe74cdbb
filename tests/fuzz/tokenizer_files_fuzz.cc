// Fuzzes what Tokenizer::Load reads beside tokenizer.json, and CreateTokenizer, then the tokenizer
// that they make. Byte 0 of the input chooses: a tokenizer.model, vocab.json with merges.txt, or
// lists as GGUF files hold them. Bytes 1 and 2 are the length of a tokenizer_config.json, which
// follows; a text to encode of as many bytes as byte 3 says comes next, the rest is the vocabulary.
#include <stdlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_spec.h"

namespace treeline {
namespace {

// A folder of this process, in memory where there is such a place.
const std::string& Folder() {
  static const std::string& folder = *[] {
    std::string path = std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
    path += "/tokenizer_files_fuzz.XXXXXX";
    if (mkdtemp(path.data()) == nullptr) std::abort();
    std::atexit([] { std::filesystem::remove_all(Folder()); });
    return new std::string(path);
  }();
  return folder;
}

void Write(const std::string& name, std::string_view bytes) {
  std::ofstream(Folder() + "/" + name, std::ios::binary) << bytes;
}

void Remove(const std::string& name) { std::filesystem::remove(Folder() + "/" + name); }

std::string_view TakeLine(std::string_view* rest) {
  const std::string_view line = rest->substr(0, rest->find('\n'));
  rest->remove_prefix(std::min(line.size() + 1, rest->size()));
  return line;
}

// Lines "type score token", with single characters for the numbers, then an empty line and merges.
TokenizerSpec SpecOf(std::string_view lines) {
  TokenizerSpec spec;
  spec.model = TakeLine(&lines);
  spec.pre_tokenizer = TakeLine(&lines);
  spec.bos_id = 0;
  while (!lines.empty()) {
    const std::string_view line = TakeLine(&lines);
    if (line.size() < 2) break;
    spec.types.push_back(static_cast<TokenType>(line[0] - '0'));
    spec.scores.push_back(line[1]);
    spec.tokens.emplace_back(line.substr(2));
  }
  while (!lines.empty()) spec.merges.emplace_back(TakeLine(&lines));
  return spec;
}

StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(int kind, std::string_view config,
                                                   std::string_view vocabulary) {
  if (kind == 2) return CreateTokenizer(SpecOf(vocabulary));
  Write("tokenizer_config.json", config);
  if (kind == 0) {
    Write("tokenizer.model", vocabulary);
  } else {
    Remove("tokenizer.model");
    const size_t end = vocabulary.find('\n');
    Write("vocab.json", vocabulary.substr(0, end));
    Write("merges.txt", end == vocabulary.npos ? "" : vocabulary.substr(end + 1));
  }
  return Tokenizer::Load(Folder());
}

}  // namespace
}  // namespace treeline

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  if (size < 4) return 0;
  const size_t config_size = std::min<size_t>(data[1] | data[2] << 8, size - 4);
  const size_t text_size = std::min<size_t>(data[3], size - 4 - config_size);
  input.remove_prefix(4);
  const std::string_view config = input.substr(0, config_size);
  const std::string_view text = input.substr(config_size, text_size);
  const auto tokenizer =
      treeline::MakeTokenizer(data[0] % 3, config, input.substr(config_size + text_size));
  if (!tokenizer.ok()) return 0;
  for (const bool parse_special : {false, true}) {
    const auto ids = (*tokenizer)->Encode(text, true, parse_special);
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) {
      if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
    }
    (*tokenizer)->Decode(*ids, true);
  }
  return 0;
}
