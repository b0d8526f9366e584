#include "cpu/experts.h"

#include <algorithm>
#include <array>

namespace gptoss::cpu {
namespace {

MatmulTask task_of(const ExpertMatrices& matrices, const std::vector<float>& bias, int64_t expert) {
  const Matrix w = matrices[expert];
  return {.x = nullptr,
          .tokens = 0,
          .w = w,
          .bias = bias.data() + expert * w.n,
          .y = nullptr,
          .y_stride = 0,
          .accumulate = false,
          .row_begin = 0,
          .row_end = 0};
}

}  // namespace

void Experts::reserve(int tokens) {
  arrays_.for_each(config_, tokens, matmul_, [](auto& array, int64_t elements) {
    if (array.size() < static_cast<size_t>(elements)) array.resize(static_cast<size_t>(elements));
  });
}

void Experts::gather(const float* x, const int32_t* experts, int tokens) {
  tokens_ = tokens;
  const int hidden = config_.hidden_size;
  expert_gather({.x = nullptr,
                 .experts = experts,
                 .rows = nullptr,
                 .pairs = arrays_.pairs.data(),
                 .offsets = arrays_.offsets.data(),
                 .tokens = tokens,
                 .n = hidden,
                 .n_experts = config_.n_experts,
                 .n_active = config_.n_active});
  for (int row = 0; row < tokens * config_.n_active; ++row) {
    arrays_.row_of_pair[static_cast<size_t>(pair_of(row))] = row;
  }
  arrays_.groups.clear();
  arrays_.active.clear();
  for (int e = 0; e < config_.n_experts; ++e) {
    const int begin = arrays_.offsets[static_cast<size_t>(e)];
    const int end = arrays_.offsets[static_cast<size_t>(e) + 1];
    if (end > begin) arrays_.active.push_back(e);
    for (int row = begin; row < end; row += kGroupTokens) {
      arrays_.groups.push_back({row, std::min(kGroupTokens, end - row)});
    }
  }
  pool_.run(static_cast<int64_t>(arrays_.groups.size()), [&](int64_t index) {
    const auto [first, count] = arrays_.groups[static_cast<size_t>(index)];
    std::array<const float*, kGroupTokens> rows;
    for (int i = 0; i < count; ++i) {
      rows[static_cast<size_t>(i)] = x + int64_t{token_of(first + i)} * hidden;
    }
    matmul_.pack(rows.data(), count, hidden,
                 arrays_.gathered.data() + first * matmul_.row_bytes(hidden));
  });
}

// Unit: 64 interleaved gate and up rows of one expert, which make one packed block of 32.
void Experts::gate_up(const ExpertWeights& w, const Change& change, float* h) {
  const int intermediate = config_.intermediate_size;
  for_each_panel(2 * intermediate, [&](int expert, int row_begin, int row_end) {
    constexpr int kChunkTokens = 128;  // 32 kB of scratch
    float gate_up[kChunkTokens * kPanelRows];
    float activated[kGroupTokens * kPanelRows / 2] = {};
    MatmulTask task = task_of(w.gate_up, w.gate_up_bias, expert);
    task.row_begin = row_begin;
    task.row_end = row_end;
    task.y = gate_up;
    task.y_stride = kPanelRows;
    const int begin = arrays_.offsets[static_cast<size_t>(expert)];
    const int end = arrays_.offsets[static_cast<size_t>(expert) + 1];
    for (int row = begin; row < end; row += kChunkTokens) {
      task.x = arrays_.gathered.data() + row * matmul_.row_bytes(config_.hidden_size);
      task.tokens = std::min(kChunkTokens, end - row);
      matmul_.run(task);
      for (int t = 0; change && t < task.tokens; ++t) {
        change(row + t, expert, row_begin, row_end, gate_up + t * kPanelRows);
      }
      for (int t = 0; t < task.tokens; t += kGroupTokens) {
        const int count = std::min(kGroupTokens, task.tokens - t);
        for (int i = 0; i < count; ++i) {
          float* const to = activated + i * kPanelRows / 2;
          kernels_.swiglu(gate_up + (t + i) * kPanelRows, kPanelRows / 2, config_.swiglu_limit, to);
          if (h != nullptr) {
            std::copy_n(to, (row_end - row_begin) / 2,
                        h + int64_t{row + t + i} * intermediate + row_begin / 2);
          }
        }
        matmul_.pack_block(
            activated, kPanelRows / 2, count, intermediate, row_begin / kPanelRows,
            arrays_.intermediate.data() + (row + t) * matmul_.row_bytes(intermediate));
      }
    }
  });
}

void Experts::down(const ExpertWeights& w, const Change& change) {
  const int hidden = config_.hidden_size;
  for_each_panel(hidden, [&](int expert, int row_begin, int row_end) {
    MatmulTask task = task_of(w.down, w.down_bias, expert);
    const int64_t begin = arrays_.offsets[static_cast<size_t>(expert)];
    task.row_begin = row_begin;
    task.row_end = row_end;
    task.x = arrays_.intermediate.data() + begin * matmul_.row_bytes(config_.intermediate_size);
    task.tokens = static_cast<int>(arrays_.offsets[static_cast<size_t>(expert) + 1] - begin);
    task.y = arrays_.out.data() + begin * hidden + row_begin;
    task.y_stride = hidden;
    matmul_.run(task);
    for (int t = 0; change && t < task.tokens; ++t) {
      change(begin + t, expert, row_begin, row_end, task.y + int64_t{t} * hidden);
    }
  });
}

// In the router's order, whatever the order in which experts were computed.
void Experts::add_to(float* x, const float* weights) {
  const int hidden = config_.hidden_size;
  pool_.run(tokens_, [&](int64_t t) {
    for (int a = 0; a < config_.n_active; ++a) {
      const auto pair = static_cast<size_t>(t * config_.n_active + a);
      kernels_.add_scaled(arrays_.out.data() + int64_t{arrays_.row_of_pair[pair]} * hidden,
                          weights[pair], hidden, x + t * hidden);
    }
  });
}

template <class F>
void Experts::for_each_panel(int n_rows, F&& f) {
  const int64_t panels = (n_rows + kPanelRows - 1) / kPanelRows;
  pool_.run(static_cast<int64_t>(arrays_.active.size()) * panels, [&](int64_t unit) {
    const int begin = static_cast<int>(unit % panels) * kPanelRows;
    f(arrays_.active[static_cast<size_t>(unit / panels)], begin,
      std::min(n_rows, begin + kPanelRows));
  });
}

}  // namespace gptoss::cpu
