// A device that runs single ops on arrays in host memory: what gptoss.ops and its tests call. A
// model's steps go through a Backend (backend/backend.h) instead.
#pragma once

#include "ops/banded_attention.h"
#include "ops/bf12_matmul.h"
#include "ops/dense_matmul.h"
#include "ops/expert_gather.h"
#include "ops/mxfp4_convert.h"
#include "ops/mxfp4_matmul.h"
#include "ops/q8_matmul.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/route_topk.h"
#include "ops/sample.h"
#include "ops/swiglu.h"

namespace gptoss::ops {

// An op's validate() checks its shapes and numbers, its validate_values(), where there is one, what
// is in its arrays. run() takes ops for which both have passed.
class Target {
 public:
  virtual ~Target() = default;

  virtual void run(const BandedAttention&) const = 0;
  virtual void run(const Bf12Encode&) const = 0;
  virtual void run(const Bf12Matmul&) const = 0;
  virtual void run(const DenseMatmul&) const = 0;
  virtual void run(const ExpertGather&) const = 0;
  virtual void run(const Mxfp4Dequantize&) const = 0;
  virtual void run(const Mxfp4Matmul&) const = 0;
  virtual void run(const Mxfp4Quantize&) const = 0;
  virtual void run(const Q8Encode&) const = 0;
  virtual void run(const Q8Matmul&) const = 0;
  virtual void run(const RmsNorm&) const = 0;
  virtual void run(const Rope&) const = 0;
  virtual void run(const RouteTopk&) const = 0;
  virtual SampledRow run(const SampleRow&) const = 0;
  virtual void run(const Swiglu&) const = 0;
};

}  // namespace gptoss::ops
