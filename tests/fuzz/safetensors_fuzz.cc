// Any bytes as a safetensors file: parsed or refused; every byte of what parses is readable.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using treeline::TensorType;
  const auto tensors = treeline::ParseSafetensors(std::as_bytes(std::span(data, size)), "fuzz");
  if (!tensors.ok()) return 0;
  for (const auto& [name, view] : *tensors) {
    if (view.type == TensorType::kI8 || view.type == TensorType::kOther) continue;
    std::vector<float> values(view.num_elements());
    treeline::CopyToFloat(view, values);
  }
  return 0;
}
