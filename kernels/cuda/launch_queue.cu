#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launch_queue.h"

namespace treeline::cuda {
namespace {

constexpr int kFewestLaunches = 8;  // Of a graph.
// A graph takes half a megabyte.
constexpr size_t kMostGraphs = 256, kMostSeen = 4096;

}  // namespace

LaunchQueue::~LaunchQueue() {
  for (const auto& [hash, graph] : graphs_) cudaGraphExecDestroy(graph.graph);
}

std::byte* LaunchQueue::Add(const KernelLaunch& launch, CUstream_st* handle) {
  if (count_ == most_) {
    Flush(handle);
    most_ = kMostLaunches;
  }
  const size_t at = launches_.size();
  launches_.resize(at + sizeof launch + launch.argument_bytes);
  std::memcpy(launches_.data() + at, &launch, sizeof launch);
  ++count_;
  return launches_.data() + at + sizeof launch;
}

void LaunchQueue::Flush(CUstream_st* handle) {
  if (count_ == 0) return;
  if (stream_.ok() && (count_ < kFewestLaunches || !LaunchGraph(handle))) {
    const char* name = "";
    const int code = MakeLaunches(handle, name);
    Check(stream_, name, static_cast<cudaError_t>(code));
  }
  launches_.clear();
  count_ = 0;
}

int LaunchQueue::MakeLaunches(CUstream_st* handle, const char*& name) const {
  for (const std::byte* at = launches_.data(); at != launches_.data() + launches_.size();) {
    KernelLaunch launch;
    std::memcpy(&launch, at, sizeof launch);
    at += sizeof launch;
    name = launch.name;
    const int code = launch.make(launch, at, handle);
    if (code != cudaSuccess) return code;
    at += launch.argument_bytes;
  }
  return cudaSuccess;
}

bool LaunchQueue::LaunchGraph(CUstream_st* handle) {
  if (!builds_graphs_) return false;
  const size_t hash = std::hash<std::string_view>{}(
      {reinterpret_cast<const char*>(launches_.data()), launches_.size()});
  auto found = graphs_.find(hash);
  if (found == graphs_.end()) {
    if (seen_.erase(hash) == 0) {
      if (seen_.size() == kMostSeen) seen_.clear();
      seen_.insert(hash);
      return false;
    }
    CUgraphExec_st* const graph = Build(handle);
    builds_graphs_ = graph != nullptr;
    if (!builds_graphs_) return false;
    if (graphs_.size() == kMostGraphs) DropOldest();
    found = graphs_.emplace(hash, Graph{launches_, graph, 0}).first;
  }
  Graph& graph = found->second;
  graph.last_use = ++uses_;
  if (graph.launches != launches_) return false;
  builds_graphs_ = cudaGraphLaunch(graph.graph, handle) == cudaSuccess;
  if (!builds_graphs_) cudaGetLastError();  // What is wrong for good the first launch will tell.
  return builds_graphs_;
}

CUgraphExec_st* LaunchQueue::Build(CUstream_st* handle) const {
  cudaGraph_t captured = nullptr;
  CUgraphExec_st* graph = nullptr;
  cudaError_t code = cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal);
  if (code == cudaSuccess) {
    const char* name = "";
    const int made = MakeLaunches(handle, name);
    code = cudaStreamEndCapture(handle, &captured);
    if (made != cudaSuccess) code = static_cast<cudaError_t>(made);
  }
  if (code == cudaSuccess) code = cudaGraphInstantiate(&graph, captured, 0);
  if (captured != nullptr) cudaGraphDestroy(captured);
  if (code == cudaSuccess) return graph;
  cudaGetLastError();  // Memory may be short. Kernels can be launched without graphs.
  return nullptr;
}

// One that is running is freed when it has ended.
void LaunchQueue::DropOldest() {
  const auto oldest = std::min_element(
      graphs_.begin(), graphs_.end(),
      [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; });
  cudaGraphExecDestroy(oldest->second.graph);
  graphs_.erase(oldest);
}

}  // namespace treeline::cuda
