// `treeline bench`: how fast a model runs on this machine, beside what the machine can
// do at best.
#ifndef TREELINE_SERVER_BENCH_H_
#define TREELINE_SERVER_BENCH_H_

#include <ostream>

#include "engine/base/status.h"
#include "proto/config.pb.h"

namespace treeline {

// Writes a table, or JSON where it was asked for, to `out` (or the file named), and what is being
// measured to `log`. Errors name the flag.
Status Bench(const BenchConfig& config, std::ostream& out, std::ostream& log);

}  // namespace treeline

#endif  // TREELINE_SERVER_BENCH_H_
