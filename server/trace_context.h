// W3C Trace Context: what a client's `traceparent` header says, and what ours says back.
// https://www.w3.org/TR/trace-context/
#ifndef TREELINE_SERVER_TRACE_CONTEXT_H_
#define TREELINE_SERVER_TRACE_CONTEXT_H_

#include <string>
#include <string_view>

namespace treeline {

// The span that answering one request is. Ids are lower-case hexadecimal digits.
struct TraceContext {
  std::string trace_id;        // 32 digits.
  std::string span_id;         // 16 digits, made here.
  std::string parent_span_id;  // The client's; empty where it sent none.
  bool sampled = false;        // Whether the client records its own.

  // The header's value: names this span, as the parent of whatever follows from it.
  std::string Header() const;
};

// A span of the trace that `traceparent` names; of a new one where it names none, or is not valid.
TraceContext StartSpan(std::string_view traceparent);

}  // namespace treeline

#endif  // TREELINE_SERVER_TRACE_CONTEXT_H_
