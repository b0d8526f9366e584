// The CPU as a target of single ops.
#include "backend/targets.h"
#include "cpu/isa/isa.h"
#include "cpu/ops.h"
#include "cpu/sample.h"

namespace gptoss::cpu {
namespace {

class CpuTarget final : public ops::Target {
 public:
  CpuTarget(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  void run(const ops::BandedAttention& op) const override { banded_attention(kernels_, pool_, op); }
  void run(const ops::Bf12Encode& op) const override { bf12_encode(pool_, op); }
  void run(const ops::Bf12Matmul& op) const override { bf12_matmul(kernels_, pool_, op); }
  void run(const ops::DenseMatmul& op) const override { dense_matmul(kernels_, pool_, op); }
  void run(const ops::ExpertGather& op) const override { expert_gather(op); }
  void run(const ops::Mxfp4Dequantize& op) const override { mxfp4_dequantize(pool_, op); }
  void run(const ops::Mxfp4Matmul& op) const override { mxfp4_matmul(kernels_, pool_, op); }
  void run(const ops::Mxfp4Quantize& op) const override { mxfp4_quantize(pool_, op); }
  void run(const ops::Q8Encode& op) const override { q8_encode(kernels_, pool_, op); }
  void run(const ops::Q8Matmul& op) const override { q8_matmul(kernels_, pool_, op); }
  void run(const ops::RmsNorm& op) const override { rms_norm(kernels_, pool_, op); }
  void run(const ops::Rope& op) const override { rope(kernels_, pool_, op); }
  void run(const ops::RouteTopk& op) const override { route_topk(op); }
  ops::SampledRow run(const ops::SampleRow& row) const override {
    static thread_local SampleScratch scratch;
    return sample(kernels_, row, scratch);
  }
  void run(const ops::Swiglu& op) const override { swiglu(kernels_, pool_, op); }

 private:
  const Kernels& kernels_;
  ThreadPool& pool_;
};

}  // namespace

std::vector<TargetInfo> target_variants() {
  std::vector<TargetInfo> list;
  for (const Isa& isa : isas()) {
    list.push_back({isa.kernels->name, isa.supported(), isa.missing});
  }
  return list;
}

std::unique_ptr<ops::Target> make_target(const std::string& variant) {
  const Kernels& kernels = variant.empty() ? select_kernels() : kernels_named(variant);
  return std::make_unique<CpuTarget>(kernels, default_pool());
}

}  // namespace gptoss::cpu
