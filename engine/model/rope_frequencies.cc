#include "engine/model/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "engine/model/config_reader.h"

namespace treeline {
namespace {

using Scaling = RopeConfig::Scaling;

constexpr double kMaxTheta = 1e12;
constexpr double kMaxFactor = 1e6;
constexpr int32_t kMaxContext = 1 << 24;

constexpr std::pair<const char*, Scaling> kScalings[] = {{"default", Scaling::kNone},
                                                         {"linear", Scaling::kLinear},
                                                         {"dynamic", Scaling::kDynamic},
                                                         {"llama3", Scaling::kLlama3},
                                                         {"yarn", Scaling::kYarn}};

// `object` is rope_scaling (its type under "type" in old files) or rope_parameters.
StatusOr<Scaling> ReadScaling(const ConfigReader& object, const char* name) {
  const char* key = object.Has("rope_type") ? "rope_type" : "type";
  if (!object.Has(key) && object.Has("factor")) {
    return InvalidArgument("config.json: {} has a factor but no rope_type", name);
  }
  TREELINE_ASSIGN_OR_RETURN(const std::string type, object.String(key, "default"));
  for (const auto& [known, scaling] : kScalings) {
    if (type == known) return scaling;
  }
  return Unimplemented(
      "config.json: {} of type {} is not supported; default, linear, dynamic, llama3 and yarn are",
      name, object.Show(key));
}

Status CheckWholeHead(const ConfigReader& reader) {
  TREELINE_ASSIGN_OR_RETURN(const double rotated, reader.Number("partial_rotary_factor", 0, 1, 1));
  if (rotated == 1) return OkStatus();
  return Unimplemented("config.json: partial_rotary_factor {} is not supported; 1 is", rotated);
}

// transformers takes 0 and null for "not set" here.
StatusOr<double> ReadBeta(const ConfigReader& object, const char* key, double fallback) {
  TREELINE_ASSIGN_OR_RETURN(const double beta, object.Number(key, 0, kMaxFactor, fallback));
  return beta == 0 ? fallback : beta;
}

Status ReadLlama3(const ConfigReader& object, RopeConfig& config) {
  TREELINE_ASSIGN_OR_RETURN(config.low_freq_factor,
                            object.Number("low_freq_factor", 1e-3, kMaxFactor));
  TREELINE_ASSIGN_OR_RETURN(config.high_freq_factor,
                            object.Number("high_freq_factor", 1e-3, kMaxFactor));
  if (config.high_freq_factor <= config.low_freq_factor) {
    return object.Wrong("high_freq_factor",
                        fmt::format("above low_freq_factor {}", config.low_freq_factor));
  }
  return OkStatus();
}

// The temperature of attention that YaRN's authors found for a context `factor` times as long.
double YarnTemperature(double factor, double mscale = 1) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

Status ReadYarn(const ConfigReader& object, RopeConfig& config) {
  if (config.theta <= 1) {
    return InvalidArgument("config.json: rope_theta must be above 1 for yarn");
  }
  TREELINE_ASSIGN_OR_RETURN(config.beta_fast, ReadBeta(object, "beta_fast", 32));
  TREELINE_ASSIGN_OR_RETURN(config.beta_slow, ReadBeta(object, "beta_slow", 1));
  TREELINE_ASSIGN_OR_RETURN(config.truncate, object.Bool("truncate", true));
  TREELINE_ASSIGN_OR_RETURN(const double mscale, object.Number("mscale", 0, kMaxFactor, 0));
  TREELINE_ASSIGN_OR_RETURN(const double mscale_all_dim,
                            object.Number("mscale_all_dim", 0, kMaxFactor, 0));
  const double implied =
      mscale > 0 && mscale_all_dim > 0
          ? YarnTemperature(config.factor, mscale) / YarnTemperature(config.factor, mscale_all_dim)
          : YarnTemperature(config.factor);
  TREELINE_ASSIGN_OR_RETURN(config.attention_factor,
                            object.Number("attention_factor", 1e-3, 1e3, implied));
  return OkStatus();
}

// The scaling's own keys.
Status ReadParameters(const ConfigReader& reader, const ConfigReader& object,
                      int32_t max_position_embeddings, RopeConfig& config) {
  if (config.scaling == Scaling::kLlama3 || config.scaling == Scaling::kYarn) {
    // The top level goes before the object, as in transformers.
    constexpr char kOriginal[] = "original_max_position_embeddings";
    const ConfigReader& where = reader.Has(kOriginal) ? reader : object;
    TREELINE_ASSIGN_OR_RETURN(config.original_context,
                              where.Integer(kOriginal, 1, kMaxContext, max_position_embeddings));
  }
  if (config.scaling == Scaling::kYarn && !object.Has("factor")) {
    config.factor = std::max(1.0, double{1} * max_position_embeddings / config.original_context);
  } else if (config.scaling != Scaling::kNone) {
    TREELINE_ASSIGN_OR_RETURN(config.factor, object.Number("factor", 1, kMaxFactor));
  }
  if (config.scaling == Scaling::kLlama3) return ReadLlama3(object, config);
  if (config.scaling == Scaling::kYarn) return ReadYarn(object, config);
  return OkStatus();
}

double BaseFrequency(double theta, int32_t i, int32_t head_dim) {
  return std::pow(theta, -2.0 * i / head_dim);
}

// Stretches the base so that the lowest frequency spans `max_context`.
double DynamicTheta(const RopeConfig& config, int32_t head_dim, int32_t max_context) {
  const double length = std::max(max_context, config.original_context);
  const double stretch = config.factor * length / config.original_context - (config.factor - 1);
  return config.theta * std::pow(stretch, double{1} * head_dim / (head_dim - 2));
}

// Waves much shorter than the original context stay, much longer ones are stretched by the
// factor, and those between are blended.
double Llama3Frequency(const RopeConfig& config, double frequency) {
  const double waves = config.original_context * frequency / (2 * std::numbers::pi);
  const double keep = std::clamp(
      (waves - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor), 0.0,
      1.0);
  return frequency * (keep + (1 - keep) / config.factor);
}

// Where, in dimensions, a ramp from the original frequencies to the stretched ones begins and
// ends.
std::pair<double, double> YarnRamp(const RopeConfig& config, int32_t head_dim) {
  // The dimension that turns `rotations` times over the original context.
  const auto dimension = [&](double rotations) {
    return head_dim * std::log(config.original_context / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(config.theta));
  };
  double low = dimension(config.beta_fast), high = dimension(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, double{1} * head_dim - 1);
  if (low == high) high += 0.001;  // transformers' own guard.
  return {low, high};
}

double YarnFrequency(const RopeConfig& config, std::pair<double, double> ramp, int32_t i,
                     double frequency) {
  const double stretched = std::clamp((i - ramp.first) / (ramp.second - ramp.first), 0.0, 1.0);
  return frequency * (1 - stretched) + frequency / config.factor * stretched;
}

}  // namespace

StatusOr<RopeConfig> RopeConfig::FromJson(const Json& json, int32_t max_position_embeddings) {
  const ConfigReader reader(json, "config.json");
  RopeConfig config;
  config.original_context = max_position_embeddings;
  TREELINE_RETURN_IF_ERROR(CheckWholeHead(reader));
  TREELINE_ASSIGN_OR_RETURN(config.theta, reader.Number("rope_theta", 1, kMaxTheta, config.theta));
  // The older key goes first, as in transformers. A file that has both must be sound in both.
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const Json* object = reader.Find(name);
    if (object != nullptr && !object->is_object()) return reader.Wrong(name, "an object or null");
  }
  const char* name = reader.Has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  if (!reader.Has(name)) return config;

  const ConfigReader object(*reader.Find(name), fmt::format("config.json: {}", name));
  TREELINE_ASSIGN_OR_RETURN(config.scaling, ReadScaling(object, name));
  TREELINE_RETURN_IF_ERROR(CheckWholeHead(object));
  TREELINE_ASSIGN_OR_RETURN(config.theta, object.Number("rope_theta", 1, kMaxTheta, config.theta));
  TREELINE_RETURN_IF_ERROR(ReadParameters(reader, object, max_position_embeddings, config));
  return config;
}

int32_t RopeConfig::LongestContext(int32_t max_position_embeddings) const {
  if (scaling == Scaling::kNone || scaling == Scaling::kLlama3) return max_position_embeddings;
  const double extended = std::min(factor * original_context, double{kMaxContext});
  return std::max(max_position_embeddings, static_cast<int32_t>(extended));
}

RopeFrequencies ComputeRopeFrequencies(const RopeConfig& config, int32_t head_dim,
                                       int32_t max_context) {
  TREELINE_CHECK(head_dim > 2 && head_dim % 2 == 0);
  const size_t half = head_dim / 2;
  TREELINE_CHECK(config.frequency_divisors.empty() || config.frequency_divisors.size() == half);
  const double theta = config.scaling == Scaling::kDynamic
                           ? DynamicTheta(config, head_dim, max_context)
                           : config.theta;
  std::pair<double, double> ramp;
  if (config.scaling == Scaling::kYarn) ramp = YarnRamp(config, head_dim);

  RopeFrequencies result;
  result.scale = static_cast<float>(config.attention_factor);
  for (size_t i = 0; i < half; ++i) {
    double frequency = BaseFrequency(theta, static_cast<int32_t>(i), head_dim);
    if (config.scaling == Scaling::kLinear) frequency /= config.factor;
    if (config.scaling == Scaling::kLlama3) frequency = Llama3Frequency(config, frequency);
    if (config.scaling == Scaling::kYarn) {
      frequency = YarnFrequency(config, ramp, static_cast<int32_t>(i), frequency);
    }
    if (!config.frequency_divisors.empty()) frequency /= config.frequency_divisors[i];
    result.inverse.push_back(static_cast<float>(frequency));
  }
  return result;
}

}  // namespace treeline
