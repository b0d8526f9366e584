#include "backend/backend.h"

#include "core/check.h"

namespace gptoss {

void Backend::add_adapter(int, const std::shared_ptr<const Adapter>&) {
  throw BackendError(concat("this device has no adapters: ", description()));
}

void Backend::remove_adapter(int) {}

}  // namespace gptoss
