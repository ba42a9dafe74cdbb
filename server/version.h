#ifndef TREELINE_SERVER_VERSION_H_
#define TREELINE_SERVER_VERSION_H_

namespace treeline {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace treeline

#endif  // TREELINE_SERVER_VERSION_H_
