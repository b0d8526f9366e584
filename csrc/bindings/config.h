// Python's config of a model and options of a backend, as the core has them.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "backend/backend.h"
#include "model/config.h"

namespace gptoss::bindings {

// From a gptoss.config.ModelConfig.
ModelConfig to_config(const pybind11::handle& config);

BackendOptions to_options(int threads, const std::string& precision, const std::string& dense,
                          const std::string& kv_cache_dtype);

}  // namespace gptoss::bindings
