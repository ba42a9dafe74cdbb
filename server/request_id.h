// The names of requests in logs and answers.
#ifndef TREELINE_SERVER_REQUEST_ID_H_
#define TREELINE_SERVER_REQUEST_ID_H_

#include <string>

namespace treeline {

// `wanted`, the client's, where it is short and plain; else a new one.
std::string RequestId(const std::string& wanted);

}  // namespace treeline

#endif  // TREELINE_SERVER_REQUEST_ID_H_
