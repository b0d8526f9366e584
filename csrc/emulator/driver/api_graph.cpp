// Graphs: built by hand or captured, instantiated, updated, launched.
#include <algorithm>
#include <cstring>

#include "emulator/driver/launch.h"
#include "emulator/driver/state.h"

using namespace gptoss::emulator;
using namespace gptoss::emulator::driver;

namespace {

bool follows(const CUgraphNode_st& node, CUgraphNode other) {
  return std::any_of(node.after.begin(), node.after.end(),
                     [&](const GraphEdge& edge) { return edge.from == other; });
}

// Whether some nodes wait for each other.
bool has_cycle(const CUgraph_st& graph) {
  std::vector<CUgraphNode> waiting;
  for (const auto& node : graph.nodes) waiting.push_back(node.get());
  for (bool goes_on = true; goes_on;) {
    const auto is_waited_for = [&](const GraphEdge& edge) {
      return std::find(waiting.begin(), waiting.end(), edge.from) != waiting.end();
    };
    goes_on = std::erase_if(waiting, [&](CUgraphNode node) {
                return std::none_of(node->after.begin(), node->after.end(), is_waited_for);
              }) > 0;
  }
  return !waiting.empty();
}

bool has_overlaps(const CUgraph_st& graph) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const auto& node) {
    return std::any_of(node->after.begin(), node->after.end(),
                       [](const GraphEdge& edge) { return edge.programmatic; });
  });
}

CUresult add_node(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, size_t count,
                  Action action) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.graphs.has(graph)) return CUDA_ERROR_INVALID_HANDLE;
    if (!out || (count && !after)) return CUDA_ERROR_INVALID_VALUE;
    auto node = std::make_unique<CUgraphNode_st>();
    for (size_t i = 0; i < count; ++i) {
      if (!driver.nodes.count(after[i])) return CUDA_ERROR_INVALID_HANDLE;
      if (after[i]->graph != graph || follows(*node, after[i])) return CUDA_ERROR_INVALID_VALUE;
      node->after.push_back({after[i], false});
    }
    node->action = std::move(action);
    node->context = context;
    node->graph = graph;
    driver.nodes.insert(node.get());
    *out = node.get();
    graph->nodes.push_back(std::move(node));
    return CUDA_SUCCESS;
  });
}

CUresult kernel_call(Driver& driver, CUcontext context, const CUDA_KERNEL_NODE_PARAMS& p,
                     KernelCall& call) {
  call.function = driver.resolve(context, p.func ? static_cast<const void*>(p.func) : p.kern);
  if (!call.function) return CUDA_ERROR_INVALID_HANDLE;
  if (call.function->module->context != context) return CUDA_ERROR_INVALID_CONTEXT;
  call.grid = {p.gridDimX, p.gridDimY, p.gridDimZ};
  call.block = {p.blockDimX, p.blockDimY, p.blockDimZ};
  call.shared_bytes = p.sharedMemBytes;
  if (const CUresult r =
          take_parameters(*call.function->kernel, p.kernelParams, p.extra, call.parameters);
      r != CUDA_SUCCESS)
    return r;
  return driver.check_launch(context, call);
}

void clone(const CUgraph_st& from, CUgraphExec_st& exec) {
  for (const auto& node : from.nodes) {
    auto copy = std::make_unique<CUgraphNode_st>();
    copy->action = node->action;
    copy->context = node->context;
    exec.of_original[node.get()] = copy.get();
    exec.graph.nodes.push_back(std::move(copy));
  }
  for (const auto& node : from.nodes)
    for (const GraphEdge& edge : node->after)
      exec.of_original[node.get()]->after.push_back(
          {exec.of_original[edge.from], edge.programmatic});
}

CUresult set_params(Driver& driver, CUcontext context, CUgraphNode node,
                    const CUDA_KERNEL_NODE_PARAMS* p) {
  if (!p || node->action.type != CU_GRAPH_NODE_TYPE_KERNEL) return CUDA_ERROR_INVALID_VALUE;
  KernelCall call;
  call.cooperative = node->action.kernel.cooperative;
  call.cluster = node->action.kernel.cluster;
  if (const CUresult r = kernel_call(driver, context, *p, call); r != CUDA_SUCCESS) return r;
  node->action.kernel = std::move(call);
  return CUDA_SUCCESS;
}

// A programmatic edge joins two kernels and leaves the first by the programmatic port.
CUresult take_edge_data(const CUgraphEdgeData& data, const CUgraphNode_st& from,
                        const CUgraphNode_st& to, bool& programmatic) {
  for (const unsigned char byte : data.reserved)
    if (byte) return CUDA_ERROR_INVALID_VALUE;
  if (data.to_port) return CUDA_ERROR_INVALID_VALUE;
  if (data.from_port == CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER) return CUDA_ERROR_NOT_SUPPORTED;
  programmatic = data.type == CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC;
  if (!programmatic) return data.type || data.from_port ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  const bool both_kernels =
      from.action.type == CU_GRAPH_NODE_TYPE_KERNEL && to.action.type == CU_GRAPH_NODE_TYPE_KERNEL;
  return both_kernels && data.from_port == CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC
             ? CUDA_SUCCESS
             : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

DRIVER_API cuGraphCreate(CUgraph* out, unsigned flags) {
  return enter([&](Driver& driver) -> CUresult {
    if (!out || flags) return CUDA_ERROR_INVALID_VALUE;
    *out = driver.graphs.add(std::make_unique<CUgraph_st>());
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphDestroy(CUgraph graph) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.graphs.has(graph)) return CUDA_ERROR_INVALID_HANDLE;
    for (const auto& node : graph->nodes) driver.nodes.erase(node.get());
    driver.graphs.remove(graph);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                   size_t count, const CUDA_KERNEL_NODE_PARAMS* p) {
  Action action;
  action.type = CU_GRAPH_NODE_TYPE_KERNEL;
  const CUresult result = enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    return p ? kernel_call(driver, context, *p, action.kernel) : CUDA_ERROR_INVALID_VALUE;
  });
  return result == CUDA_SUCCESS ? add_node(out, graph, after, count, std::move(action)) : result;
}

DRIVER_API cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                size_t count, const CUDA_MEMCPY3D* p, CUcontext) {
  if (!p) return CUDA_ERROR_INVALID_VALUE;
  if (p->srcMemoryType == CU_MEMORYTYPE_ARRAY || p->dstMemoryType == CU_MEMORYTYPE_ARRAY ||
      p->Depth > 1)
    return CUDA_ERROR_NOT_SUPPORTED;
  Action action;
  action.type = CU_GRAPH_NODE_TYPE_MEMCPY;
  CopyCall& copy = action.copy;
  copy.source_pitch = p->srcPitch ? p->srcPitch : p->WidthInBytes;
  copy.target_pitch = p->dstPitch ? p->dstPitch : p->WidthInBytes;
  copy.source = (p->srcMemoryType == CU_MEMORYTYPE_HOST ? reinterpret_cast<uint64_t>(p->srcHost)
                                                        : p->srcDevice) +
                p->srcY * copy.source_pitch + p->srcXInBytes;
  copy.target = (p->dstMemoryType == CU_MEMORYTYPE_HOST ? reinterpret_cast<uint64_t>(p->dstHost)
                                                        : p->dstDevice) +
                p->dstY * copy.target_pitch + p->dstXInBytes;
  copy.width = p->WidthInBytes;
  copy.height = std::max<size_t>(p->Height, 1);
  return add_node(out, graph, after, count, std::move(action));
}

DRIVER_API cuGraphAddMemsetNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                size_t count, const CUDA_MEMSET_NODE_PARAMS* p, CUcontext) {
  if (!p || (p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4))
    return CUDA_ERROR_INVALID_VALUE;
  Action action;
  action.type = CU_GRAPH_NODE_TYPE_MEMSET;
  action.fill = {p->dst,   p->pitch,      p->width, std::max<size_t>(p->height, 1),
                 p->value, p->elementSize};
  return add_node(out, graph, after, count, std::move(action));
}

DRIVER_API cuGraphAddHostNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                              size_t count, const CUDA_HOST_NODE_PARAMS* p) {
  if (!p || !p->fn) return CUDA_ERROR_INVALID_VALUE;
  Action action;
  action.type = CU_GRAPH_NODE_TYPE_HOST;
  action.host = p->fn;
  action.host_data = p->userData;
  return add_node(out, graph, after, count, std::move(action));
}

DRIVER_API cuGraphAddEmptyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                               size_t count) {
  return add_node(out, graph, after, count, Action{});
}

DRIVER_API cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                     const CUgraphEdgeData* edge_data, size_t count) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.graphs.has(graph)) return CUDA_ERROR_INVALID_HANDLE;
    if (count && (!from || !to)) return CUDA_ERROR_INVALID_VALUE;
    std::vector<GraphEdge> edges;
    for (size_t i = 0; i < count; ++i) {
      for (const CUgraphNode node : {from[i], to[i]})
        if (!driver.nodes.count(node) || node->graph != graph) return CUDA_ERROR_INVALID_VALUE;
      bool is_there = from[i] == to[i] || follows(*to[i], from[i]);
      for (size_t j = 0; j < i; ++j) is_there = is_there || (from[j] == from[i] && to[j] == to[i]);
      if (is_there) return CUDA_ERROR_INVALID_VALUE;
      GraphEdge edge{from[i], false};
      if (edge_data)
        if (const CUresult r = take_edge_data(edge_data[i], *from[i], *to[i], edge.programmatic);
            r != CUDA_SUCCESS)
          return r;
      if (edge.programmatic && driver.refuses_edges) return CUDA_ERROR_NOT_SUPPORTED;
      edges.push_back(edge);
    }
    for (size_t i = 0; i < count; ++i) to[i]->after.push_back(edges[i]);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphAddDependencies(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                  size_t count) {
  return cuGraphAddDependencies_v2(graph, from, to, nullptr, count);
}

DRIVER_API cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.graphs.has(graph)) return CUDA_ERROR_INVALID_HANDLE;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    if (!nodes) {
      *count = graph->nodes.size();
      return CUDA_SUCCESS;
    }
    for (size_t i = 0; i < *count; ++i)
      nodes[i] = i < graph->nodes.size() ? graph->nodes[i].get() : nullptr;
    *count = std::min(*count, graph->nodes.size());
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType* type) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.nodes.count(node)) return CUDA_ERROR_INVALID_HANDLE;
    *type = node->action.type;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* out) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.nodes.count(node)) return CUDA_ERROR_INVALID_HANDLE;
    if (!out || node->action.type != CU_GRAPH_NODE_TYPE_KERNEL) return CUDA_ERROR_INVALID_VALUE;
    KernelCall& call = node->action.kernel;
    node->parameter_pointers.clear();
    for (const Parameter& p : call.function->kernel->parameters)
      node->parameter_pointers.push_back(&call.parameters[p.offset]);
    *out = CUDA_KERNEL_NODE_PARAMS{};
    out->func = call.function;
    out->gridDimX = call.grid.x;
    out->gridDimY = call.grid.y;
    out->gridDimZ = call.grid.z;
    out->blockDimX = call.block.x;
    out->blockDimY = call.block.y;
    out->blockDimZ = call.block.z;
    out->sharedMemBytes = call.shared_bytes;
    out->kernelParams = node->parameter_pointers.data();
    out->ctx = node->context;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* p) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.nodes.count(node)) return CUDA_ERROR_INVALID_HANDLE;
    return set_params(driver, context, node, p);
  });
}

// ---- executable graphs ----

DRIVER_API cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    constexpr unsigned long long kIgnored = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                                            CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    if (!driver.graphs.has(graph)) return CUDA_ERROR_INVALID_HANDLE;
    if (flags == CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) return CUDA_ERROR_NOT_SUPPORTED;
    if (!out || flags & ~kIgnored || has_cycle(*graph)) return CUDA_ERROR_INVALID_VALUE;
    if (driver.refuses_graphs && has_overlaps(*graph)) return CUDA_ERROR_NOT_SUPPORTED;
    auto exec = std::make_unique<CUgraphExec_st>();
    clone(*graph, *exec);
    *out = driver.execs.add(std::move(exec));
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                             const CUDA_KERNEL_NODE_PARAMS* p) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.execs.has(exec)) return CUDA_ERROR_INVALID_HANDLE;
    const auto found = exec->of_original.find(node);
    if (found == exec->of_original.end()) return CUDA_ERROR_INVALID_VALUE;
    driver.wait_all(context);
    return set_params(driver, context, found->second, p);
  });
}

DRIVER_API cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph,
                                CUgraphExecUpdateResultInfo* info) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.execs.has(exec) || !driver.graphs.has(graph)) return CUDA_ERROR_INVALID_HANDLE;
    const auto refuse = [&](CUgraphExecUpdateResult why, CUgraphNode node) {
      if (info) *info = {why, node, nullptr};
      return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    };
    if (info) *info = {CU_GRAPH_EXEC_UPDATE_SUCCESS, nullptr, nullptr};
    if (graph->nodes.size() != exec->graph.nodes.size())
      return refuse(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, nullptr);
    // Nodes correspond by the order of their creation.
    std::unordered_map<CUgraphNode, CUgraphNode> map;
    for (size_t i = 0; i < graph->nodes.size(); ++i)
      map[graph->nodes[i].get()] = exec->graph.nodes[i].get();
    for (const auto& node : graph->nodes) {
      const CUgraphNode old = map[node.get()];
      if (node->action.type != old->action.type)
        return refuse(CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, node.get());
      if (node->action.type == CU_GRAPH_NODE_TYPE_KERNEL &&
          node->action.kernel.function != old->action.kernel.function)
        return refuse(CU_GRAPH_EXEC_UPDATE_ERROR_FUNCTION_CHANGED, node.get());
      std::vector<std::pair<CUgraphNode, bool>> edges, old_edges;
      for (const GraphEdge& edge : node->after)
        edges.emplace_back(map[edge.from], edge.programmatic);
      for (const GraphEdge& edge : old->after) old_edges.emplace_back(edge.from, edge.programmatic);
      std::sort(edges.begin(), edges.end());
      std::sort(old_edges.begin(), old_edges.end());
      if (edges != old_edges)
        return refuse(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, node.get());
    }
    driver.wait_all(context);
    for (const auto& node : graph->nodes) map[node.get()]->action = node->action;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphUpload(CUgraphExec exec, CUstream) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    return driver.execs.has(exec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}

DRIVER_API cuGraphLaunch(CUgraphExec exec, CUstream handle) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    CUstream stream = driver.stream(context, handle);
    if (!driver.execs.has(exec) || !stream || stream->context != context)
      return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) return CUDA_ERROR_NOT_SUPPORTED;
    ++driver.graph_launches;
    // The same graph does not overlap itself.
    std::shared_ptr<Work> before = exec->last;
    if (before && !before->done) stream->next_after.push_back(before);
    exec->last = driver.enqueue(
        stream, [&driver, context, exec] { return driver.run_graph(context, exec->graph); });
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuGraphExecDestroy(CUgraphExec exec) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    if (!driver.execs.has(exec)) return CUDA_ERROR_INVALID_HANDLE;
    const std::shared_ptr<Work> last = exec->last;
    std::shared_ptr<CUgraphExec_st> object = driver.execs.take(exec);
    if (last && !last->done) last->keeps = std::move(object);
    return CUDA_SUCCESS;
  });
}
