#pragma once
#include <vector>
#include "cpu/kernels/kernels.h"
#include "ops/sample.h"
namespace gptoss::cpu {
struct SampleScratch { std::vector<double> p; };
ops::SampledRow sample(const Kernels& kernels, const ops::SampleRow& row, SampleScratch& scratch);
}
