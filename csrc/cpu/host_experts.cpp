#include "backend/host_experts.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/thread_pool.h"
#include "cpu/experts.h"
#include "cpu/isa/isa.h"
#include "cpu/layers.h"
#include "cpu/weights.h"

namespace gptoss::cpu {
namespace {

class CpuHostExperts final : public HostExperts {
 public:
  CpuHostExperts(const Weights& weights, int n_layers, const BackendOptions& options)
      : config_(weights.config),
        owners_(weights.owners),
        kernels_(select_kernels()),
        matmul_(kernels_.matmul(Format::mxfp4, inputs_of(options))),
        pool_(shared_pool(resolve_thread_count(options.threads))),
        experts_(kernels_, matmul_, *pool_, config_) {
    for (int layer = 0; layer < n_layers; ++layer) {
      layers_.push_back(prepare_experts(weights.layers[static_cast<size_t>(layer)], kernels_));
    }
  }

  std::string arithmetic() const override {
    return concat(kernels_.name, ", expert inputs ", matmul_.inputs);
  }

  void prepare(int max_tokens) override {
    experts_.reserve(max_tokens);
    widened_.resize(static_cast<size_t>(max_tokens) * static_cast<size_t>(config_.hidden_size));
  }

  void run(const HostExpertRows& rows) override {
    prepare_thread();
    const int64_t hidden = config_.hidden_size;
    const auto* x = static_cast<const float*>(rows.x);
    if (rows.is_bf16) {
      const auto* const narrow = static_cast<const uint16_t*>(rows.x);
      pool_->run(rows.tokens, [&](int64_t t) {
        kernels_.from_bf16(narrow + t * hidden, hidden, widened_.data() + t * hidden);
      });
      x = widened_.data();
    }
    const ExpertWeights& w = layers_[static_cast<size_t>(rows.layer)];
    experts_.gather(x, rows.experts, rows.tokens);
    experts_.gate_up(w, {}, nullptr);
    experts_.down(w, {});
    std::fill_n(rows.y, rows.tokens * hidden, 0.0f);
    experts_.add_to(rows.y, rows.weights);
  }

 private:
  const ModelConfig config_;
  const std::vector<std::shared_ptr<const void>> owners_;  // of the matrices' bytes
  const Kernels& kernels_;
  const Matmul& matmul_;
  const std::shared_ptr<ThreadPool> pool_;
  Experts experts_;
  std::vector<ExpertWeights> layers_;
  std::vector<float> widened_;  // (T, hidden)
};

}  // namespace

std::unique_ptr<HostExperts> make_host_experts(const Weights& weights, int n_layers,
                                               const BackendOptions& options) {
  return std::make_unique<CpuHostExperts>(weights, n_layers, options);
}

}  // namespace gptoss::cpu
