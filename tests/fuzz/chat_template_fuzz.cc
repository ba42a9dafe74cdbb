// Any bytes as a chat template: parses and renders it, or gives an error, within its limits.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/base/json.h"
#include "engine/text/chat_template.h"

namespace {

// The limits of one template are generous; a fuzzer wants many small ones.
constexpr size_t kMaxTemplate = 4096;

treeline::ChatTemplate::Inputs MakeInputs() {
  treeline::ChatTemplate::Inputs inputs;
  inputs.messages = {{{"role", "system"}, {"content", "  Be brief. "}},
                     {{"role", "user"}, {"content", "h\xc3\xa9llo <b>\n"}},
                     {{"role", "assistant"}, {"content", nullptr}, {"n", 1.5}}};
  inputs.tools = {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", {1, -2}}}}}};
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  inputs.extra = {{"broken", "\xff\x80"}, {"x", {{"k", true}}}};
  return inputs;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const treeline::ChatTemplate::Inputs inputs = MakeInputs();
  if (size > kMaxTemplate) return 0;
  const auto chat_template =
      treeline::ChatTemplate::Parse(std::string(reinterpret_cast<const char*>(data), size));
  if (chat_template.ok()) chat_template->Render(inputs).status().IgnoreError();
  return 0;
}
