#include "engine/model/attention_spec.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "engine/model/config_reader.h"

namespace treeline {
namespace {

constexpr char kWhere[] = "linear_attention";

// Far beyond any use, small enough that ring sizes stay in int32.
constexpr int32_t kMaxGroupSize = 1 << 20;
constexpr int32_t kMaxWindowSize = 1 << 20;
constexpr int32_t kMaxSinks = 4096;
constexpr int32_t kMaxConvKernel = 4095;
constexpr int32_t kMaxFeatureSize = 4096;
constexpr float kMaxAlpha = 1000.0f;

template <typename Enum>
using Name = std::pair<const char*, Enum>;

constexpr Name<Window> kWindows[] = {{"group", Window::kGroup}, {"sliding", Window::kSliding}};
constexpr Name<bool> kDecays[] = {{"none", false}, {"head", true}};
constexpr Name<Local> kLocals[] = {{"none", Local::kNone},
                                   {"softmax", Local::kSoftmax},
                                   {"relu2", Local::kRelu2},
                                   {"laplace", Local::kLaplace}};
constexpr Name<FeatureMap> kFeatureMaps[] = {{"none", FeatureMap::kNone},
                                             {"identity", FeatureMap::kIdentity},
                                             {"relu", FeatureMap::kRelu},
                                             {"elu1", FeatureMap::kElu1},
                                             {"hedgehog", FeatureMap::kHedgehog}};
constexpr Name<QkNorm> kQkNorms[] = {{"none", QkNorm::kNone}, {"l2", QkNorm::kL2}};
constexpr Name<Denominator> kDenominators[] = {
    {"none", Denominator::kNone}, {"sum", Denominator::kSum}, {"joint", Denominator::kJoint}};

// Members of the family that have a name but no kernel.
constexpr const char* kKnownFeatureMaps[] = {"favor", "rfa", "yoso", "flash"};

constexpr const char* kKeys[] = {"group_size", "window",      "window_size", "sinks",
                                 "decay",      "local",       "feature_map", "feature_size",
                                 "qk_norm",    "denominator", "alpha",       "conv_kernel"};
// Beside them in the block and in its entries.
constexpr char kLayers[] = "layers";

template <typename Enum, size_t N>
const char* NameOf(Enum value, const Name<Enum> (&names)[N]) {
  const auto* found =
      std::find_if(names, names + N, [&](const auto& name) { return name.second == value; });
  TREELINE_CHECK(found != names + N);
  return found->first;
}

template <typename Enum, size_t N>
StatusOr<Enum> Choice(const ConfigReader& reader, const char* key, const Name<Enum> (&names)[N],
                      std::optional<Enum> fallback) {
  if (!reader.Has(key) && fallback.has_value()) return *fallback;
  TREELINE_ASSIGN_OR_RETURN(const std::string text, reader.String(key));
  std::vector<const char*> legal;
  for (const auto& [name, value] : names) {
    if (text == name) return value;
    legal.push_back(name);
  }
  return reader.Wrong(key, fmt::format("one of {}", fmt::join(legal, ", ")));
}

// `where` names the object in messages.
Status CheckKeys(const Json& json, const std::string& where) {
  if (!json.is_object()) return InvalidArgument("{}: must be an object", where);
  for (const auto& item : json.items()) {
    const auto* known = std::find(std::begin(kKeys), std::end(kKeys), item.key());
    if (known == std::end(kKeys) && item.key() != kLayers) {
      return InvalidArgument("{}: unknown key \"{}\"; it takes {} and {}", where,
                             item.key().substr(0, 80), fmt::join(kKeys, ", "), kLayers);
    }
  }
  return OkStatus();
}

Status CheckFeatureMapIsBuilt(const ConfigReader& reader) {
  const Json* value = reader.Find("feature_map");
  for (const char* known : kKnownFeatureMaps) {
    if (value != nullptr && *value == known) {
      return Unimplemented(
          "{}: feature_map \"{}\" is not built; there are identity, relu, elu1, "
          "hedgehog and none",
          reader.where(), known);
    }
  }
  return OkStatus();
}

Status CheckFeatureSize(const AttentionForm& form, const ConfigReader& reader) {
  if (form.feature_size % 2 != 0) return reader.Wrong("feature_size", "0 or even");
  if (form.feature_size > 0 && form.feature_map != FeatureMap::kHedgehog) {
    return InvalidArgument("{}: feature_size {} needs feature_map hedgehog, not \"{}\"",
                           reader.where(), form.feature_size,
                           NameOf(form.feature_map, kFeatureMaps));
  }
  return OkStatus();
}

StatusOr<AttentionForm> ReadForm(const ConfigReader& reader) {
  AttentionForm form;
  TREELINE_ASSIGN_OR_RETURN(form.group_size, reader.Integer("group_size", 0, kMaxGroupSize));
  const bool softmax_only = !form.has_groups();
  std::optional<Local> default_local;
  std::optional<FeatureMap> default_feature_map;
  if (softmax_only) {
    default_local = Local::kSoftmax;
    default_feature_map = FeatureMap::kNone;
  }
  TREELINE_ASSIGN_OR_RETURN(form.window,
                            Choice(reader, "window", kWindows, std::optional(Window::kGroup)));
  TREELINE_ASSIGN_OR_RETURN(form.window_size, reader.Integer("window_size", softmax_only ? 0 : 1,
                                                             kMaxWindowSize, form.group_size));
  TREELINE_ASSIGN_OR_RETURN(form.sinks, reader.Integer("sinks", 0, kMaxSinks, 0));
  TREELINE_ASSIGN_OR_RETURN(form.decay, Choice(reader, "decay", kDecays, std::optional(false)));
  TREELINE_ASSIGN_OR_RETURN(form.local, Choice(reader, "local", kLocals, default_local));
  TREELINE_RETURN_IF_ERROR(CheckFeatureMapIsBuilt(reader));
  TREELINE_ASSIGN_OR_RETURN(form.feature_map,
                            Choice(reader, "feature_map", kFeatureMaps, default_feature_map));
  TREELINE_ASSIGN_OR_RETURN(form.feature_size,
                            reader.Integer("feature_size", 0, kMaxFeatureSize, 0));
  TREELINE_RETURN_IF_ERROR(CheckFeatureSize(form, reader));
  TREELINE_ASSIGN_OR_RETURN(form.qk_norm,
                            Choice(reader, "qk_norm", kQkNorms, std::optional(QkNorm::kNone)));
  TREELINE_ASSIGN_OR_RETURN(form.denominator, Choice(reader, "denominator", kDenominators,
                                                     std::optional(Denominator::kNone)));
  TREELINE_ASSIGN_OR_RETURN(form.conv_kernel, reader.Integer("conv_kernel", 0, kMaxConvKernel, 0));
  if (form.conv_kernel > 0 && form.conv_kernel % 2 == 0) {
    return reader.Wrong("conv_kernel", "0 or odd");
  }
  return form;
}

// A number is that constant, "learned" no value.
StatusOr<std::optional<float>> ReadAlpha(const ConfigReader& reader) {
  const Json* value = reader.Find("alpha");
  if (value != nullptr && value->is_string()) {
    if (*value == "learned") return std::optional<float>();
    return reader.Wrong("alpha", "a number or \"learned\"");
  }
  TREELINE_ASSIGN_OR_RETURN(const float alpha, reader.Number("alpha", -kMaxAlpha, kMaxAlpha, 1.0f));
  return std::optional<float>(alpha);
}

// group_size 0 is softmax over everything: what the other keys could ask for has no meaning.
Status CheckSoftmaxOnly(const AttentionForm& form, const ConfigReader& reader) {
  const auto refuse = [&](const char* key, auto value) {
    return InvalidArgument(
        "{}: group_size 0 is softmax attention over everything; {} \"{}\" "
        "needs a group_size of at least 1",
        reader.where(), key, value);
  };
  if (form.local != Local::kSoftmax) return refuse("local", NameOf(form.local, kLocals));
  if (form.has_linear()) return refuse("feature_map", NameOf(form.feature_map, kFeatureMaps));
  if (form.decay) return refuse("decay", NameOf(form.decay, kDecays));
  if (form.conv_kernel > 0) return refuse("conv_kernel", form.conv_kernel);
  return OkStatus();
}

// feature_map none: nothing of the linear branch may be set.
Status CheckNoLinear(const AttentionForm& form, const ConfigReader& reader) {
  const auto refuse = [&](const char* key, const std::string& value) {
    return InvalidArgument(
        "{}: feature_map \"none\" means no linear branch, so {} {} has nothing "
        "to act on; name a feature_map or leave {} out",
        reader.where(), key, value, key);
  };
  for (const char* key : {"decay", "denominator", "qk_norm"}) {
    const bool set = reader.Has(key) && *reader.Find(key) != "none";
    const bool acts_on_local = key == std::string("qk_norm") && form.local == Local::kRelu2;
    if (set && !acts_on_local) return refuse(key, reader.Show(key));
  }
  if (reader.Has("alpha")) return refuse("alpha", reader.Show("alpha"));
  if (form.local == Local::kNone && form.conv_kernel == 0) {
    return InvalidArgument(
        "{}: local \"none\" and feature_map \"none\" with conv_kernel 0 leave "
        "attention nothing to compute",
        reader.where());
  }
  return OkStatus();
}

Status CheckDenominator(const AttentionForm& form, const ConfigReader& reader) {
  if (!form.has_normaliser()) return OkStatus();
  const char* denominator = NameOf(form.denominator, kDenominators);
  // The denominator must not vanish or change sign.
  if (form.feature_map == FeatureMap::kIdentity) {
    return InvalidArgument(
        "{}: denominator \"{}\" needs feature_map relu, elu1 or hedgehog, not "
        "\"{}\"",
        reader.where(), denominator, NameOf(form.feature_map, kFeatureMaps));
  }
  if (form.denominator != Denominator::kJoint) return OkStatus();
  if (form.local != Local::kSoftmax) {
    return InvalidArgument("{}: denominator \"joint\" needs local softmax, not \"{}\"",
                           reader.where(), NameOf(form.local, kLocals));
  }
  if (reader.Has("alpha")) {
    return InvalidArgument(
        "{}: denominator \"joint\" takes its factor from self_attn.linear_factor;"
        " leave alpha out",
        reader.where());
  }
  return OkStatus();
}

Status CheckWindow(const AttentionForm& form, const ConfigReader& reader) {
  if (form.window == Window::kGroup && form.window_size % form.group_size != 0) {
    return InvalidArgument(
        "{}: window \"group\" takes whole groups, so window_size must be a multiple of "
        "group_size {}, not {}; or set window to sliding",
        reader.where(), form.group_size, reader.Show("window_size"));
  }
  return OkStatus();
}

StatusOr<AttentionSpec> ReadSpec(const ConfigReader& reader) {
  AttentionSpec spec;
  AttentionForm& form = spec.form;
  TREELINE_ASSIGN_OR_RETURN(form, ReadForm(reader));
  TREELINE_ASSIGN_OR_RETURN(spec.alpha, ReadAlpha(reader));
  if (!form.has_groups()) {
    TREELINE_RETURN_IF_ERROR(CheckSoftmaxOnly(form, reader));
    TREELINE_RETURN_IF_ERROR(CheckNoLinear(form, reader));
    return AttentionSpec::Softmax();  // Window keys and sinks mean nothing to it.
  }
  TREELINE_RETURN_IF_ERROR(CheckWindow(form, reader));
  TREELINE_RETURN_IF_ERROR(form.has_linear() ? CheckDenominator(form, reader)
                                             : CheckNoLinear(form, reader));
  return spec;
}

// Writes an entry's keys over those of the layers that it names. `where`: of the entry.
Status ApplyEntry(const Json& entry, const std::string& where, std::vector<Json>& layers) {
  TREELINE_RETURN_IF_ERROR(CheckKeys(entry, where));
  const auto named = entry.find(kLayers);
  if (named == entry.end() || !named->is_array()) {
    return InvalidArgument("{}: layers must list the layers that the entry is for", where);
  }
  for (const Json& layer : *named) {
    if (!layer.is_number_unsigned() || layer.get<uint64_t>() >= layers.size()) {
      return InvalidArgument("{}: layers must be of 0 to {}, not {}", where, layers.size() - 1,
                             ShortText(layer));
    }
    for (const auto& item : entry.items()) {
      if (item.key() != kLayers) layers[layer.get<size_t>()][item.key()] = item.value();
    }
  }
  return OkStatus();
}

// "0-6, 8" of ascending numbers.
std::string Ranges(const std::vector<size_t>& numbers) {
  std::vector<std::string> ranges;
  for (size_t first = 0; first < numbers.size();) {
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    ranges.push_back(first == last ? fmt::format("{}", numbers[first])
                                   : fmt::format("{}-{}", numbers[first], numbers[last]));
    first = last + 1;
  }
  return fmt::format("{}", fmt::join(ranges, ", "));
}

}  // namespace

StatusOr<std::vector<AttentionSpec>> AttentionSpec::ForLayers(const Json& json,
                                                              int32_t num_layers) {
  TREELINE_RETURN_IF_ERROR(CheckKeys(json, kWhere));
  Json common = json;
  common.erase(kLayers);
  std::vector<Json> layers(num_layers, common);
  const ConfigReader block(json, kWhere);
  const Json* entries = block.Find(kLayers);
  if (entries != nullptr && !entries->is_array()) return block.Wrong(kLayers, "a list");
  for (size_t i = 0; entries != nullptr && i < entries->size(); ++i) {
    const std::string where = fmt::format("{}.layers[{}]", kWhere, i);
    TREELINE_RETURN_IF_ERROR(ApplyEntry((*entries)[i], where, layers));
  }

  std::vector<AttentionSpec> specs;
  for (const Json& layer : layers) {
    const std::string where =
        entries == nullptr ? kWhere : fmt::format("{} of layer {}", kWhere, specs.size());
    TREELINE_ASSIGN_OR_RETURN(const AttentionSpec spec, ReadSpec(ConfigReader(layer, where)));
    specs.push_back(spec);
  }
  return specs;
}

std::string AttentionSpec::ToString() const {
  if (!form.has_groups()) return "softmax";
  std::vector<std::string> parts = {fmt::format("group {}", form.group_size)};
  if (form.window == Window::kSliding) parts.push_back(fmt::format("sliding {}", form.window_size));
  if (form.window == Window::kGroup && form.lag() > 1) {
    parts.push_back(fmt::format("window of {} groups", form.lag()));
  }
  if (form.sinks > 0) parts.push_back(fmt::format("{} sinks", form.sinks));
  std::string branches = NameOf(form.local, kLocals);
  if (form.has_linear()) branches += fmt::format(" + {}", NameOf(form.feature_map, kFeatureMaps));
  if (form.feature_size > 0) branches += fmt::format(" of {} features", form.feature_size);
  parts.push_back(branches);
  if (form.qk_norm == QkNorm::kL2) parts.push_back("l2");
  if (form.has_normaliser()) parts.push_back(NameOf(form.denominator, kDenominators));
  if (form.has_linear() && form.denominator != Denominator::kJoint) {
    parts.push_back(alpha.has_value() ? fmt::format("alpha {}", *alpha) : "alpha learned");
  }
  if (form.decay) parts.push_back("decay");
  if (form.conv_kernel > 0) parts.push_back(fmt::format("conv {}", form.conv_kernel));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string ToString(const std::vector<AttentionSpec>& layers) {
  std::vector<std::pair<const AttentionSpec*, std::vector<size_t>>> kinds;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto kind = std::find_if(kinds.begin(), kinds.end(),
                                   [&](const auto& k) { return *k.first == layers[i]; });
    if (kind == kinds.end()) {
      kinds.push_back({&layers[i], {i}});
    } else {
      kind->second.push_back(i);
    }
  }
  if (kinds.size() == 1) return layers[0].ToString();
  std::vector<std::string> parts;
  for (const auto& [spec, numbers] : kinds) {
    parts.push_back(fmt::format("layers {}: {}", Ranges(numbers), spec->ToString()));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace treeline
