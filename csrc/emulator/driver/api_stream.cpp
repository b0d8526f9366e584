// Streams, events and capture.
#include <algorithm>

#include "emulator/driver/state.h"

using namespace gptoss::emulator;
using namespace gptoss::emulator::driver;

namespace {

constexpr unsigned kRecordExternal = 1;

CUresult create_stream(CUstream* out, unsigned flags, int priority) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!out || flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    auto stream = std::make_unique<CUstream_st>();
    stream->context = context;
    stream->flags = flags;
    stream->priority = priority;
    *out = driver.streams.add(std::move(stream));
    context->streams.push_back(*out);
    return CUDA_SUCCESS;
  });
}

// Body of an entry point that works on one stream.
template <class F>
CUresult with_stream(CUstream handle, F body) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    CUstream stream = driver.stream(context, handle);
    return stream ? body(driver, stream) : CUDA_ERROR_INVALID_HANDLE;
  });
}

template <class F>
CUresult with_event(CUevent event, F body) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    return driver.events.has(event) ? body(driver) : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult record(CUevent event, CUstream handle) {
  return with_stream(handle, [&](Driver& driver, CUstream stream) -> CUresult {
    if (!driver.events.has(event) || event->context != stream->context)
      return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) {
      event->capture = stream->capture;
      event->captured = stream->tail;
      event->recorded = nullptr;
      return CUDA_SUCCESS;
    }
    event->capture = nullptr;
    Action action;
    action.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD;
    action.event = event;
    if (const CUresult r = driver.issue(stream, std::move(action)); r != CUDA_SUCCESS) return r;
    event->recorded = stream->last;
    return CUDA_SUCCESS;
  });
}

}  // namespace

DRIVER_API cuStreamCreate(CUstream* out, unsigned flags) { return create_stream(out, flags, 0); }
DRIVER_API cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority) {
  return create_stream(out, flags, std::clamp(priority, -5, 0));
}

DRIVER_API cuStreamDestroy_v2(CUstream handle) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    if (!driver.streams.has(handle)) return CUDA_ERROR_INVALID_HANDLE;
    driver.wait(handle->last);
    std::erase(handle->context->streams, handle);
    driver.streams.remove(handle);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuStreamSynchronize(CUstream handle) {
  return with_stream(handle, [](Driver& driver, CUstream stream) -> CUresult {
    if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    driver.wait(stream->last);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuStreamQuery(CUstream handle) {
  return with_stream(handle, [](Driver& driver, CUstream stream) -> CUresult {
    if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (!stream->last || stream->last->done) return CUDA_SUCCESS;
    driver.run_one();
    return stream->last->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  });
}

DRIVER_API cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags) {
  return with_stream(handle, [&](Driver& driver, CUstream stream) -> CUresult {
    if (!driver.events.has(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (flags) return CUDA_ERROR_INVALID_VALUE;  // external ones, in captures, are not modelled
    if (event->capture) {
      // The stream joins the capture, or goes on in it.
      if (stream->capture && stream->capture != event->capture)
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
      if (!stream->capture && stream == &stream->context->default_stream)
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      stream->capture = event->capture;
      for (CUgraphNode node : event->captured)
        if (std::find(stream->tail.begin(), stream->tail.end(), node) == stream->tail.end())
          stream->tail.push_back(node);
      return CUDA_SUCCESS;
    }
    if (stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (event->recorded && !event->recorded->done) {
      stream->next_after.push_back(event->recorded);
      // So that waiting for the stream waits for the event.
      driver.enqueue(stream, [] { return CUDA_SUCCESS; });
    }
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuStreamGetFlags(CUstream handle, unsigned* out) {
  return with_stream(handle, [&](Driver&, CUstream stream) -> CUresult {
    *out = stream->flags;
    return CUDA_SUCCESS;
  });
}
DRIVER_API cuStreamGetPriority(CUstream handle, int* out) {
  return with_stream(handle, [&](Driver&, CUstream stream) -> CUresult {
    *out = stream->priority;
    return CUDA_SUCCESS;
  });
}
DRIVER_API cuStreamGetCtx(CUstream handle, CUcontext* out) {
  return with_stream(handle, [&](Driver&, CUstream stream) -> CUresult {
    *out = stream->context;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  return with_stream(handle, [&](Driver& driver, CUstream stream) -> CUresult {
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    Action action;
    action.type = CU_GRAPH_NODE_TYPE_HOST;
    action.host = function;
    action.host_data = data;
    return driver.issue(stream, std::move(action));
  });
}

// ---- capture ----

DRIVER_API cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  return with_stream(handle, [&](Driver& driver, CUstream stream) -> CUresult {
    if (stream == &stream->context->default_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_INVALID_VALUE;
    stream->capture = driver.graphs.add(std::make_unique<CUgraph_st>());
    stream->began_capture = true;
    stream->capture_mode = mode;
    stream->capture_thread = std::this_thread::get_id();
    stream->is_broken = false;
    stream->tail.clear();
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuStreamEndCapture(CUstream handle, CUgraph* out) {
  return with_stream(handle, [&](Driver& driver, CUstream stream) -> CUresult {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = nullptr;
    if (!stream->capture) return CUDA_ERROR_INVALID_VALUE;
    if (!stream->began_capture) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    CUgraph graph = stream->capture;
    // Whatever other streams did must lead back to this one.
    std::vector<CUgraphNode> reached = stream->tail;
    for (size_t i = 0; i < reached.size(); ++i)
      for (const GraphEdge& edge : reached[i]->after)
        if (std::find(reached.begin(), reached.end(), edge.from) == reached.end())
          reached.push_back(edge.from);
    const bool is_broken = stream->is_broken;
    const bool unjoined = reached.size() != graph->nodes.size();
    for (CUstream other : stream->context->streams) {
      if (other->capture != graph) continue;
      other->capture = nullptr;
      other->began_capture = false;
      other->tail.clear();
    }
    if (unjoined || is_broken) {
      for (const auto& node : graph->nodes) driver.nodes.erase(node.get());
      driver.graphs.remove(graph);
      return is_broken ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    }
    *out = graph;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* out) {
  return with_stream(handle, [&](Driver&, CUstream stream) -> CUresult {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = !stream->capture    ? CU_STREAM_CAPTURE_STATUS_NONE
           : stream->is_broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                               : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  return enter([&](Driver&) -> CUresult {
    if (!mode || *mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
      return CUDA_ERROR_INVALID_VALUE;
    std::swap(*mode, Driver::capture_mode());
    return CUDA_SUCCESS;
  });
}

// ---- events ----

DRIVER_API cuEventCreate(CUevent* out, unsigned flags) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    constexpr unsigned kKnown =
        CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    const bool goes_elsewhere = flags & CU_EVENT_INTERPROCESS;
    if (!out || flags & ~kKnown || (goes_elsewhere && !(flags & CU_EVENT_DISABLE_TIMING)))
      return CUDA_ERROR_INVALID_VALUE;
    auto event = std::make_unique<CUevent_st>();
    event->context = context;
    event->flags = flags;
    *out = driver.events.add(std::move(event));
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuEventDestroy_v2(CUevent event) {
  return with_event(event, [&](Driver& driver) -> CUresult {
    driver.events.remove(event);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuEventRecord(CUevent event, CUstream stream) { return record(event, stream); }
DRIVER_API cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
  return flags & kRecordExternal ? CUDA_ERROR_NOT_SUPPORTED : record(event, stream);
}

DRIVER_API cuEventQuery(CUevent event) {
  return with_event(event, [&](Driver& driver) -> CUresult {
    if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
    if (driver.breaks_capture()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (!event->recorded || event->recorded->done) return CUDA_SUCCESS;
    driver.run_one();
    return event->recorded->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  });
}

DRIVER_API cuEventSynchronize(CUevent event) {
  return with_event(event, [&](Driver& driver) -> CUresult {
    if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
    driver.wait(event->recorded);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  return with_event(start, [&](Driver& driver) -> CUresult {
    if (!driver.events.has(end) || !start->recorded || !end->recorded ||
        ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING))
      return CUDA_ERROR_INVALID_HANDLE;
    if (!milliseconds) return CUDA_ERROR_INVALID_VALUE;
    if (!start->recorded->done || !end->recorded->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = static_cast<float>(end->time_ms - start->time_ms);
    return CUDA_SUCCESS;
  });
}
DRIVER_API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
