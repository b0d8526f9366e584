// Every kernel of every ISA but attention, against plain loops in double.
#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/float16.h"
#include "core/mxfp4.h"
#include "cpu/ops.h"
#include "harness.h"

namespace gptoss::test {
namespace {

using cpu::Inputs;
using cpu::Kernels;
using cpu::MatmulTask;
using cpu::packed_size;
using cpu::q8_row_bytes;

constexpr int kSizes[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Bounds of errors count roundings. A scalar fma has two; 16 lanes of a sum over n elements have
// n/16 fma each, and the tree over the lanes 4 additions.
double sum_roundings(int n) { return 2.0 * ((n + 31) / 32 * 2) + 4; }

std::vector<uint16_t> bf16_values(Random& random, size_t n) {
  std::vector<uint16_t> values(n);
  for (uint16_t& value : values) {
    const float x = random.uniform();
    uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    value = static_cast<uint16_t>(bits >> 16);
  }
  return values;
}

// A row of n floats in the form of a matmul.
std::vector<uint8_t> pack_row(const Kernels& kernels, const cpu::Matmul& matmul,
                              const std::vector<float>& x) {
  const auto n = static_cast<int>(x.size());
  Output<uint8_t> packed(static_cast<size_t>(matmul.row_bytes(n)), 4);
  const Input<float> input(x, 4);
  const float* const row = input.data();
  matmul.pack(&row, 1, n, packed.data());
  GPTOSS_CHECK(packed.intact(), kernels.name, " n ", n);
  return packed.values();
}

GPTOSS_TEST(pack_splits_blocks_into_even_and_odd_elements) {
  Random random(1);
  for (const Kernels* kernels : supported_kernels()) {
    for (const int n : kSizes) {
      const std::vector<float> x = random.floats(static_cast<size_t>(n));
      const auto packed_n = static_cast<size_t>(packed_size(n));
      const std::vector<uint8_t> bytes = pack_row(*kernels, kernels->bf16.exact, x);
      std::vector<float> found(packed_n);
      std::memcpy(found.data(), bytes.data(), bytes.size());
      for (size_t i = 0; i < packed_n; ++i) {
        const size_t place = i / 32 * 32 + i % 32 / 2 + (i % 2 == 0 ? 0 : 16);
        GPTOSS_CHECK(found[place] == (i < x.size() ? x[i] : 0.0f), kernels->name, " n ", n);
      }
    }
  }
}

GPTOSS_TEST(from_bf16_is_exact_at_any_address) {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  for (const Kernels* kernels : supported_kernels()) {
    const Input<uint16_t> input(bits, 3);
    Output<float> output(bits.size());
    kernels->from_bf16(input.data(), static_cast<int64_t>(bits.size()), output.data());
    const std::vector<float> found = output.values();
    for (size_t i = 0; i < bits.size(); ++i) {
      uint32_t word = 0;
      std::memcpy(&word, &found[i], sizeof word);
      GPTOSS_CHECK(word == static_cast<uint32_t>(i) << 16, kernels->name, " bits ", i);
    }
    GPTOSS_CHECK(output.intact(), kernels->name);
  }
}

GPTOSS_TEST(rms_norm_agrees_with_double) {
  for (const Kernels* kernels : supported_kernels()) {
    Random random(2);
    for (const int n : kSizes) {
      const std::vector<float> x = random.floats(static_cast<size_t>(n), 3.0f);
      const std::vector<float> weight = random.floats(static_cast<size_t>(n));
      const float eps = 1e-5f;
      Output<float> y(x.size(), 12);
      kernels->rms_norm(Input<float>(x, 4).data(), Input<float>(weight, 8).data(), eps, n,
                        y.data());
      const std::vector<float> found = y.values();
      note_bits(*kernels, "rms_norm", found);
      double squares = 0;
      for (const float value : x) squares += static_cast<double>(value) * value;
      const double factor = 1.0 / std::sqrt(squares / n + static_cast<double>(eps));
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = x[i] * factor * weight[i];
        // Half of the sum's relative error passes the root; 6 more roundings.
        const double tolerance = (sum_roundings(n) / 2 + 6) * kUnit * std::fabs(expected);
        GPTOSS_CHECK(is_near(found[i], expected, tolerance), kernels->name, " n ", n, ": ",
                     found[i], " for ", expected);
      }
      GPTOSS_CHECK(y.intact(), kernels->name, " n ", n);

      std::vector<float> in_place = x;
      kernels->rms_norm(in_place.data(), weight.data(), eps, n, in_place.data());
      GPTOSS_CHECK(same_bits(in_place, found), kernels->name, " in place, n ", n);
    }
  }
}

GPTOSS_TEST(rope_agrees_with_double) {
  for (const Kernels* kernels : supported_kernels()) {
    Random random(3);
    for (const int head_dim : {2, 6, 16, 64, 80}) {
      const int heads = 3;
      const auto half = static_cast<size_t>(head_dim / 2);
      const std::vector<float> x = random.floats(static_cast<size_t>(heads * head_dim));
      const std::vector<float> cos = random.floats(half);
      const std::vector<float> sin = random.floats(half);
      Output<float> y(x.size());
      std::memcpy(y.data(), x.data(), x.size() * sizeof(float));
      kernels->rope(y.data(), heads, head_dim, Input<float>(cos, 4).data(),
                    Input<float>(sin, 4).data());
      const std::vector<float> found = y.values();
      note_bits(*kernels, "rope", found);
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t pair = i % static_cast<size_t>(head_dim) % half;
        const bool second = i % static_cast<size_t>(head_dim) >= half;
        const double turned = second ? static_cast<double>(x[i - half]) * sin[pair]
                                     : -static_cast<double>(x[i + half]) * sin[pair];
        const double kept = static_cast<double>(x[i]) * cos[pair];
        const double tolerance = 2 * kUnit * (std::fabs(kept) + std::fabs(turned));
        GPTOSS_CHECK(is_near(found[i], kept + turned, tolerance), kernels->name, " ", head_dim);
      }
      GPTOSS_CHECK(y.intact(), kernels->name, " head_dim ", head_dim);
    }
  }
}

double swiglu_in_double(double gate, double up, double limit) {
  gate = std::min(gate, limit);
  up = std::clamp(up, -limit, limit);
  return gate / (1.0 + std::exp(-1.702 * gate)) * (up + 1.0);
}

GPTOSS_TEST(swiglu_agrees_with_double) {
  for (const Kernels* kernels : supported_kernels()) {
    Random random(4);
    for (const int n : kSizes) {
      for (const float scale : {1.0f, 10.0f, 100.0f, 1e6f}) {
        const float limit = 7.0f;
        const std::vector<float> x = random.floats(2 * static_cast<size_t>(n), scale);
        Output<float> h(static_cast<size_t>(n), 4);
        kernels->swiglu(Input<float>(x, 4).data(), n, limit, h.data());
        const std::vector<float> found = h.values();
        note_bits(*kernels, "swiglu", found);
        for (size_t i = 0; i < found.size(); ++i) {
          const double gate = std::min(x[2 * i], limit);
          const double expected = swiglu_in_double(gate, x[2 * i + 1], limit);
          // The exponent has two roundings (1.702 is one), exp 4, what follows 5. Where exp
          // saturates, at e^88.3, the sigmoid is below 1e-38.
          const double tolerance = (2 * 1.702 * std::fabs(gate) + 9) * kUnit * std::fabs(expected) +
                                   1e-38 * std::fabs(gate) * (limit + 1);
          GPTOSS_CHECK(is_near(found[i], expected, tolerance), kernels->name, " gate ", gate, ": ",
                       found[i], " for ", expected);
        }
        GPTOSS_CHECK(h.intact(), kernels->name, " n ", n);
      }
    }
    const std::vector<float> special = {kNan, 1.0f, 1.0f, kNan, kInf, kInf, 1.0f, -kInf};
    std::vector<float> h(4);
    kernels->swiglu(special.data(), 4, 7.0f, h.data());
    GPTOSS_CHECK(std::isnan(h[0]) && std::isnan(h[1]), kernels->name);
    GPTOSS_CHECK(is_near(h[2], swiglu_in_double(7, 7, 7), 1e-4), kernels->name);
    GPTOSS_CHECK(is_near(h[3], swiglu_in_double(1, -7, 7), 1e-5), kernels->name);
  }
}

GPTOSS_TEST(low_rank_changes_agree_with_double) {
  for (const Kernels* kernels : supported_kernels()) {
    Random random(9);
    for (const int n : kSizes) {
      for (const int rank : {1, 3, 4, 8, 13, 16}) {
        const auto size = static_cast<size_t>(n);
        const auto ranks = static_cast<size_t>(rank);
        const std::vector<float> x = random.floats(size);
        const std::vector<float> in = random.floats(ranks * size);
        Output<float> low(ranks);
        kernels->low_rank_in(Input<float>(x, 4).data(), Input<float>(in, 8).data(), n, rank,
                             low.data());
        const std::vector<float> h = low.values();
        note_bits(*kernels, "low_rank_in", h);
        GPTOSS_CHECK(low.intact(), kernels->name, " n ", n);
        for (size_t r = 0; r < ranks; ++r) {
          double expected = 0;
          double magnitude = 0;
          for (size_t i = 0; i < size; ++i) {
            const double product = static_cast<double>(x[i]) * in[r * size + i];
            expected += product;
            magnitude += std::fabs(product);
          }
          GPTOSS_CHECK(is_near(h[r], expected, sum_roundings(n) * kUnit * magnitude), kernels->name,
                       " n ", n, " rank ", rank);
          float one = 0;  // a row does not depend on those beside it
          kernels->low_rank_in(x.data(), in.data() + r * size, n, 1, &one);
          GPTOSS_CHECK(std::bit_cast<uint32_t>(one) == std::bit_cast<uint32_t>(h[r]));
        }

        const int stride = n + 5;
        const std::vector<float> out = random.floats(ranks * static_cast<size_t>(stride));
        const std::vector<float> before = random.floats(size);
        Output<float> y(size, 4);
        std::memcpy(y.data(), before.data(), size * sizeof(float));
        kernels->low_rank_out(h.data(), Input<float>(out, 4).data(), stride, rank, n, y.data());
        const std::vector<float> found = y.values();
        note_bits(*kernels, "low_rank_out", found);
        GPTOSS_CHECK(y.intact(), kernels->name, " n ", n);
        for (size_t i = 0; i < size; ++i) {
          double expected = before[i];
          double magnitude = std::fabs(expected);
          for (size_t r = 0; r < ranks; ++r) {
            const double product =
                static_cast<double>(h[r]) * out[r * static_cast<size_t>(stride) + i];
            expected += product;
            magnitude += std::fabs(product);
          }
          GPTOSS_CHECK(is_near(found[i], expected, (2.0 * rank + 1) * kUnit * magnitude),
                       kernels->name, " n ", n, " rank ", rank);
        }
      }
    }
  }
}

GPTOSS_TEST(add_scaled_agrees_with_double) {
  for (const Kernels* kernels : supported_kernels()) {
    Random random(5);
    for (const int n : kSizes) {
      const std::vector<float> x = random.floats(static_cast<size_t>(n));
      const std::vector<float> start = random.floats(static_cast<size_t>(n));
      const float weight = random.uniform();
      Output<float> y(x.size());
      std::memcpy(y.data(), start.data(), start.size() * sizeof(float));
      kernels->add_scaled(Input<float>(x, 4).data(), weight, n, y.data());
      const std::vector<float> found = y.values();
      note_bits(*kernels, "add_scaled", found);
      for (size_t i = 0; i < x.size(); ++i) {
        const double product = static_cast<double>(weight) * x[i];
        const double tolerance = 2 * kUnit * (std::fabs(product) + std::fabs(start[i]));
        GPTOSS_CHECK(is_near(found[i], start[i] + product, tolerance), kernels->name, " n ", n);
      }
      GPTOSS_CHECK(y.intact(), kernels->name, " n ", n);
    }
  }
}

// ---- Matmul -----------------------------------------------------------------------------------

struct Weights {
  std::vector<uint8_t> bytes;   // bf16 (N, K), or blocks
  std::vector<uint8_t> scales;  // MXFP4 only
  std::vector<double> values;   // (N, K)
};

Weights bf16_weights(Random& random, int n, int k) {
  Weights weights;
  const std::vector<uint16_t> bits = bf16_values(random, static_cast<size_t>(n) * k);
  weights.bytes.resize(bits.size() * 2);
  std::memcpy(weights.bytes.data(), bits.data(), weights.bytes.size());
  for (const uint16_t value : bits) weights.values.push_back(bf16_to_float(value));
  return weights;
}

Weights mxfp4_weights(Random& random, int n, int k) {
  static constexpr double kMagnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  Weights weights;
  for (int block = 0; block < n * (k / 32); ++block) {
    weights.scales.push_back(static_cast<uint8_t>(120 + random.below(8)));
    const double scale = std::ldexp(1.0, weights.scales.back() - 127);
    for (int i = 0; i < 16; ++i) {
      const auto byte = static_cast<uint8_t>(random.below(256));
      weights.bytes.push_back(byte);
      for (const int code : {byte & 15, byte >> 4}) {
        weights.values.push_back((code & 8 ? -scale : scale) * kMagnitudes[code & 7]);
      }
    }
  }
  return weights;
}

// Where element i of a row of int8 weights is (core/q8.h).
int q8_code_place(int k, int i) {
  const int in_group = std::min(4, k / 32 - i / 128 * 4);
  return i / 128 * 128 + i % 2 * 16 * in_group + i % 128 / 32 * 16 + i % 32 / 2;
}

Weights q8_weights(const Kernels& kernels, Random& random, int n, int k) {
  const Weights exact = bf16_weights(random, n, k);
  Weights weights;
  const auto blocks = static_cast<size_t>(k / 32);
  std::vector<uint16_t> scales(blocks);
  for (int row = 0; row < n; ++row) {
    const auto begin = exact.bytes.begin() + int64_t{2} * row * k;
    const Input<uint8_t> bits({begin, begin + int64_t{2} * k}, 2);
    Output<int8_t> codes(static_cast<size_t>(k));
    kernels.encode_q8_weights(reinterpret_cast<const uint16_t*>(bits.data()), k, codes.data(),
                              scales.data());
    GPTOSS_CHECK(codes.intact(), kernels.name);
    const std::vector<int8_t> found = codes.values();
    for (int i = 0; i < k; ++i) {
      const int place = q8_code_place(k, i);
      const double scale = bf16_to_float(scales[static_cast<size_t>(i / 32)]);
      weights.values.push_back(found[static_cast<size_t>(place)] * scale / 2);
      GPTOSS_CHECK(is_near(weights.values.back(), exact.values[static_cast<size_t>(row) * k + i],
                           scale / 4 * (1 + 1e-5)),
                   kernels.name, " k ", k, " element ", i);
    }
    const auto* const code_bytes = reinterpret_cast<const uint8_t*>(found.data());
    weights.bytes.insert(weights.bytes.end(), code_bytes, code_bytes + k);
    const auto* const scale_bytes = reinterpret_cast<const uint8_t*>(scales.data());
    weights.scales.insert(weights.scales.end(), scale_bytes, scale_bytes + 2 * blocks);
  }
  return weights;
}

// Every code, -128 among them, and scales of either sign: such as a file may hold.
Weights q8_0_weights(Random& random, int n, int k) {
  Weights weights;
  for (int row = 0; row < n; ++row) {
    const size_t first = weights.bytes.size();
    for (int i = 0; i < k; ++i) weights.bytes.push_back(static_cast<uint8_t>(random.below(256)));
    std::vector<float> scales;
    for (int b = 0; b < k / 32; ++b) {
      const uint16_t half = float_to_half(random.uniform() * 0x1p-7f);
      scales.push_back(half_to_float(half));
      weights.scales.push_back(static_cast<uint8_t>(half & 255));
      weights.scales.push_back(static_cast<uint8_t>(half >> 8));
    }
    for (int i = 0; i < k; ++i) {
      const size_t place = first + static_cast<size_t>(q8_code_place(k, i));
      const auto code = static_cast<int8_t>(weights.bytes[place]);
      weights.values.push_back(static_cast<double>(scales[static_cast<size_t>(i / 32)]) * code);
    }
  }
  return weights;
}

// Every 40th weight is one that a table of 16 has no room for.
Weights bf12_weights(Random& random, int n, int k) {
  const Weights exact = bf16_weights(random, n, k);
  std::vector<uint16_t> bits(static_cast<size_t>(n) * static_cast<size_t>(k));
  std::memcpy(bits.data(), exact.bytes.data(), exact.bytes.size());
  Weights weights;
  std::vector<uint16_t> escapes;
  const auto row_bytes = static_cast<size_t>(bf12_row_bytes(k));
  for (size_t row = 0; row < static_cast<size_t>(n); ++row) {
    uint16_t* const w = bits.data() + row * static_cast<size_t>(k);
    for (int i = static_cast<int>(row); i < k; i += 40) {
      w[i] = static_cast<uint16_t>(0x3000 + 0x100 * (i % 23));
    }
    for (int i = 0; i < k; ++i) weights.values.push_back(bf16_to_float(w[i]));
    Output<uint8_t> bytes(row_bytes, 1);
    bf12_encode_row(w, k, bytes.data(), escapes);
    GPTOSS_CHECK(bytes.intact());
    const std::vector<uint8_t> written = bytes.values();
    weights.bytes.insert(weights.bytes.end(), written.begin(), written.end());
    GPTOSS_CHECK(bf12_escapes_end(written.data(), k) ==
                 static_cast<int64_t>(escapes.size() / kBf12Group));
  }
  const auto* const escape_bytes = reinterpret_cast<const uint8_t*>(escapes.data());
  weights.scales.assign(escape_bytes, escape_bytes + 2 * escapes.size());
  return weights;
}

// A matmul: of weights in a format, and of inputs.
struct Kind {
  Format format;
  Inputs inputs;
};
constexpr Kind kBf16 = {Format::bf16, Inputs::exact};
constexpr Kind kBf16Fast = {Format::bf16, Inputs::fast};
constexpr Kind kBf12 = {Format::bf12, Inputs::fast};
constexpr Kind kMxfp4 = {Format::mxfp4, Inputs::exact};
constexpr Kind kMxfp4Fast = {Format::mxfp4, Inputs::fast};
constexpr Kind kQ8 = {Format::q8, Inputs::fast};
constexpr Kind kQ80 = {Format::q8_0, Inputs::fast};

const cpu::Matmul& matmul_of(const Kernels& kernels, Kind kind) {
  return kernels.matmul(kind.format, kind.inputs);
}

Weights make_weights(const Kernels& kernels, Format format, Random& random, int n, int k) {
  switch (format) {
    case Format::bf16:
      return bf16_weights(random, n, k);
    case Format::bf12:
      return bf12_weights(random, n, k);
    case Format::q8:
      return q8_weights(kernels, random, n, k);
    case Format::q8_0:
      return q8_0_weights(random, n, k);
    case Format::mxfp4:
      break;
  }
  return mxfp4_weights(random, n, k);
}

GPTOSS_TEST(formats_without_exact_inputs_say_so) {
  for (const Kernels* kernels : supported_kernels()) {
    for (const Format format : {Format::bf12, Format::q8}) {
      GPTOSS_CHECK_THROWS(std::invalid_argument, kernels->matmul(format, Inputs::exact));
    }
  }
}

// Tokens [first, first + count) of x (T, K) as the matmul takes them.
std::vector<uint8_t> pack_tokens(const cpu::Matmul& matmul, const std::vector<float>& x, int first,
                                 int count, int k) {
  std::vector<uint8_t> packed;
  for (int group = 0; group < count; group += cpu::kGroupTokens) {
    const int in_group = std::min(cpu::kGroupTokens, count - group);
    Output<uint8_t> bytes(static_cast<size_t>(in_group * matmul.row_bytes(k)), 4);
    const float* rows[cpu::kGroupTokens];
    for (int i = 0; i < in_group; ++i) {
      rows[i] = x.data() + static_cast<int64_t>(first + group + i) * k;
    }
    matmul.pack(rows, in_group, k, bytes.data());
    GPTOSS_CHECK(bytes.intact());
    const std::vector<uint8_t> written = bytes.values();
    packed.insert(packed.end(), written.begin(), written.end());
  }
  return packed;
}

// Where a Q8 row that is a group of its own has a block: AMX has those of a chain together.
int q8_place(const Kernels& kernels, int k, int block) {
  if (std::string(kernels.name) != "amx") return block;
  return block % 4 * static_cast<int>(cpu::q8_padded(k) / 128) + block / 4;
}

// What the activations stand for once they are packed: (T, K).
std::vector<double> packed_values(const Kernels& kernels, Kind kind, const std::vector<float>& x,
                                  int tokens, int k) {
  const std::string inputs = matmul_of(kernels, kind).inputs;
  std::vector<double> values;
  if (inputs == "bf16") {
    for (const float value : x) {  // rounded to nearest even
      const uint32_t bits = std::bit_cast<uint32_t>(value);
      const uint32_t odd = (bits >> 16) & 1;
      values.push_back(bf16_to_float(static_cast<uint16_t>((bits + 0x7fff + odd) >> 16)));
    }
    return values;
  }
  if (inputs != "int8") return {x.begin(), x.end()};
  for (int t = 0; t < tokens; ++t) {
    const auto begin = x.begin() + static_cast<int64_t>(t) * k;
    const std::vector<uint8_t> row = pack_row(kernels, kernels.q8.fast, {begin, begin + k});
    for (int i = 0; i < k; ++i) {
      const int block = q8_place(kernels, k, i / 32);
      const int place = block * 32 + i % 2 * 16 + i % 32 / 2;
      float scale = 0;
      std::memcpy(&scale, row.data() + cpu::q8_scales_offset(k) + block * 4, sizeof scale);
      values.push_back(2.0 * scale * static_cast<int8_t>(row[static_cast<size_t>(place)]));
    }
  }
  return values;
}

// One case: all rows and tokens at once against double, then each row and each token alone, and the
// second half of the rows, against the bits of the whole.
void check_matmul(const Kernels& kernels, Kind kind, int tokens, int n, int k, bool accumulate) {
  const std::string name = std::string("matmul_") + name_of(kind.format) +
                           (kind.inputs == Inputs::exact ? "_exact" : "_fast");
  Random random(static_cast<uint64_t>(1000 * tokens + 100 * n + k));
  const auto where = [&] {
    std::ostringstream out;
    out << kernels.name << " " << name << " T " << tokens << " N " << n << " K " << k;
    return out.str();
  };
  const auto size = [](int a, int b) { return static_cast<size_t>(a) * static_cast<size_t>(b); };
  const std::string inputs = matmul_of(kernels, kind).inputs;
  const bool is_mxfp4 = kind.format == Format::mxfp4;
  const Weights weights = make_weights(kernels, kind.format, random, n, k);
  const std::vector<float> bias = random.floats(static_cast<size_t>(n));
  const std::vector<float> x = random.floats(size(tokens, k));
  const std::vector<double> x_values = packed_values(kernels, kind, x, tokens, k);

  const Input<uint8_t> bytes(weights.bytes, 1);
  const Input<uint8_t> scales(weights.scales, is_mxfp4 ? 3 : 2);
  const Input<float> bias_input(bias, 4);
  const cpu::Matmul& matmul = matmul_of(kernels, kind);
  MatmulTask task{};
  task.w = {.format = kind.format, .n = n, .k = k, .data = bytes.data(), .scales = scales.data()};
  task.bias = (n + k / 32) % 2 == 0 ? nullptr : bias_input.data();
  task.accumulate = accumulate;

  const float start = 0.25f;
  const auto compute = [&](int token, int token_count, int row_begin, int row_end) {
    const int stride = row_end - row_begin + 2;  // the 2 between rows must stay as they are
    Output<float> y(size(token_count, stride));
    for (int t = 0; t < token_count; ++t) {
      std::fill_n(y.data() + t * stride, row_end - row_begin, accumulate ? start : kNan);
    }
    const Input<uint8_t> packed(pack_tokens(matmul, x, token, token_count, k), 4);
    MatmulTask part = task;
    part.x = packed.data();
    part.tokens = token_count;
    part.y = y.data();
    part.y_stride = stride;
    part.row_begin = row_begin;
    part.row_end = row_end;
    matmul.run(part);
    GPTOSS_CHECK(y.intact(), where());
    const std::vector<float> all = y.values();
    std::vector<float> values;
    for (int t = 0; t < token_count; ++t) {
      const auto row = all.begin() + t * stride;
      values.insert(values.end(), row, row + (row_end - row_begin));
      GPTOSS_CHECK(std::isnan(row[stride - 2]) && std::isnan(row[stride - 1]), where());
    }
    return values;
  };

  const std::vector<float> found = compute(0, tokens, 0, n);
  // Fast sums of bf16 numbers are each instruction set's own.
  const bool own_sums =
      kind.inputs == Inputs::fast && (kind.format == Format::bf16 || kind.format == Format::bf12);
  if (!own_sums) note_bits(kernels, name, found);
  // Two bf16 keep 16 bits of x.
  const double split = inputs == "2 x bf16" ? std::ldexp(1.0, -17) : 0.0;
  for (int t = 0; t < tokens; ++t) {
    for (int row = 0; row < n; ++row) {
      double expected = (task.bias ? bias[row] : 0.0f) + (accumulate ? start : 0.0f);
      double magnitude = std::fabs(expected) + 1;
      for (int i = 0; i < k; ++i) {
        const double product = x_values[size(t, k) + i] * weights.values[size(row, k) + i];
        expected += product;
        magnitude += std::fabs(product);
      }
      // Int8 has fewer: one multiplication more per block, and a fma per 128 elements in a chain.
      const double tolerance = ((sum_roundings(k) + 3) * kUnit + split) * magnitude;
      GPTOSS_CHECK(is_near(found[size(t, n) + row], expected, tolerance), where(), ": ",
                   found[size(t, n) + row], " for ", expected);
    }
    const std::vector<float> alone = compute(t, 1, 0, n);
    GPTOSS_CHECK(same_bits(alone, {found.data() + size(t, n), alone.size()}), where());
  }
  const auto check_rows = [&](int begin, int end) {
    const std::vector<float> rows = compute(0, tokens, begin, end);
    for (int t = 0; t < tokens; ++t) {
      const auto count = static_cast<size_t>(end - begin);
      GPTOSS_CHECK(same_bits({rows.data() + size(t, end - begin), count},
                             {found.data() + size(t, n) + static_cast<size_t>(begin), count}),
                   where());
    }
  };
  for (int row = 0; row < n; ++row) check_rows(row, row + 1);
  check_rows(n / 2, n);
}

GPTOSS_TEST(matmul_agrees_with_double_and_rows_are_independent) {
  for (const Kernels* kernels : supported_kernels()) {
    for (const int tokens : {1, 2, 3, 4, 5, 7, 8, 9, 11, 33}) {
      for (const int n : {1, 3, 4, 5, 9, 17, 33}) {
        for (const int k : {1, 31, 32, 33, 100}) {
          check_matmul(*kernels, kBf16, tokens, n, k, (n + k) % 3 == 0);
          check_matmul(*kernels, kBf16Fast, tokens, n, k, (n + k) % 3 == 0);
          check_matmul(*kernels, kBf12, tokens, n, k, (n + k) % 3 == 0);
        }
        for (const int k : {32, 64, 96}) {
          check_matmul(*kernels, kMxfp4, tokens, n, k, (n + k) % 3 == 0);
        }
      }
    }
    check_matmul(*kernels, kBf16, 2, 3, 2880, false);
    check_matmul(*kernels, kBf16Fast, 2, 3, 2880, false);
    check_matmul(*kernels, kBf16Fast, 50, 50, 96, false);
    // Tiles of f32 panels by the number of tokens; 256 pass at once.
    for (const int tokens : {6, 10, 12, 13, 14, 15}) {
      check_matmul(*kernels, kBf16, tokens, 17, 33, false);
    }
    check_matmul(*kernels, kBf16, 261, 3, 33, false);
    for (const int tokens : {6, 7, 9, 12, 48, 50}) {
      check_matmul(*kernels, kBf12, tokens, 70, 96, false);
    }
    check_matmul(*kernels, kBf12, 2, 9, 65 * 64 + 1, false);
    check_matmul(*kernels, kMxfp4, 2, 3, 2880, false);
  }
}

// Panels of 8, 16 or 32 rows serve from 3 to 12 tokens on; tiles are of 2 to 16 tokens, chunks of
// 16 or 32 blocks, and 128 tokens pass at once.
GPTOSS_TEST(int8_matmul_agrees_with_double_and_rows_are_independent) {
  for (const Kernels* kernels : supported_kernels()) {
    for (const Kind kind : {kMxfp4Fast, kQ8}) {
      for (const int tokens : {1, 3, 4, 6, 7, 8, 9, 10, 13, 17}) {
        for (const int n : {1, 5, 8, 16, 17, 32}) {
          for (const int k : {32, 64, 96, 128, 160}) {
            check_matmul(*kernels, kind, tokens, n, k, (n + k) % 3 == 0);
          }
        }
      }
      check_matmul(*kernels, kind, 131, 32, 32, false);
      check_matmul(*kernels, kind, 12, 32, 1024 + 96, false);
      check_matmul(*kernels, kind, 2, 3, 2880, false);
    }
    for (const int tokens : {1, 7, 13}) {
      for (const int n : {5, 32}) check_matmul(*kernels, kQ80, tokens, n, 160, n == 5);
    }
  }
}

// Panels multiply scales by adding exponents where that is possible: it must not show.
GPTOSS_TEST(mxfp4_panels_agree_with_single_tokens_at_extreme_scales) {
  constexpr int kTokens = 13;
  constexpr int kRows = 32;
  constexpr int k = 576;  // two chunks
  for (const Kernels* kernels : supported_kernels()) {
    for (const int byte : {0, 1, 64, 65, 127, 189, 190, 254, 255}) {
      for (const float factor : {1.0f, 0.0f, 1e-38f, 1e-19f, 1e19f, 1e36f, INFINITY, kNan}) {
        Random random(static_cast<uint64_t>(byte));
        Weights weights = mxfp4_weights(random, kRows, k);
        weights.scales[7 * k / 32 + 3] = static_cast<uint8_t>(byte);  // row 7, chunk 0
        std::vector<float> x = random.floats(size_t{kTokens} * k);
        for (int i = 32; i < 64; ++i) x[5 * k + i] *= factor;
        const auto compute = [&](int token, int tokens) {
          const std::vector<uint8_t> packed = pack_tokens(kernels->mxfp4.fast, x, token, tokens, k);
          std::vector<float> y(static_cast<size_t>(tokens) * kRows);
          MatmulTask task{};
          task.x = packed.data();
          task.tokens = tokens;
          task.w = {.format = Format::mxfp4,
                    .n = kRows,
                    .k = k,
                    .data = weights.bytes.data(),
                    .scales = weights.scales.data()};
          task.y = y.data();
          task.y_stride = kRows;
          task.row_end = kRows;
          kernels->mxfp4.fast.run(task);
          return y;
        };
        const std::vector<float> found = compute(0, kTokens);
        for (int t = 0; t < kTokens; ++t) {
          const std::vector<float> alone = compute(t, 1);
          for (size_t row = 0; row < kRows; ++row) {
            const float one = found[static_cast<size_t>(t) * kRows + row];
            GPTOSS_CHECK(one == alone[row] || (std::isnan(one) && std::isnan(alone[row])),
                         kernels->name, " scale byte ", byte, " factor ", factor, " token ", t,
                         " row ", row, ": ", one, " and ", alone[row]);
          }
        }
        // What is not finite must not be lost.
        GPTOSS_CHECK(std::isfinite(factor) || std::isnan(found[5 * kRows]), kernels->name);
      }
    }
  }
}

GPTOSS_TEST(q8_rows_hold_what_their_layout_says) {
  for (const Kernels* kernels : supported_kernels()) {
    Random random(8);
    for (const int k : {32, 96, 128, 160}) {
      std::vector<float> x = random.floats(static_cast<size_t>(k), 5.0f);
      std::fill_n(x.begin(), 32, 0.0f);
      const std::vector<uint8_t> found = pack_row(*kernels, kernels->q8.fast, x);
      for (int b = 0; b < cpu::q8_padded(k) / 32; ++b) {
        float scale = 0;
        int32_t correction = 0;
        const int at = q8_place(*kernels, k, b);
        std::memcpy(&scale, &found[static_cast<size_t>(cpu::q8_scales_offset(k) + 4 * at)], 4);
        std::memcpy(&correction,
                    &found[static_cast<size_t>(cpu::q8_corrections_offset(k) + 4 * at)], 4);
        double largest = 0;
        int32_t sum = 0;
        int32_t sums_of_pairs[2] = {0, 0};
        for (int i = 32 * b; i < 32 * b + 32; ++i) {
          const double value = i < k ? x[static_cast<size_t>(i)] : 0.0f;
          largest = std::max(largest, std::fabs(value));
          const auto place = static_cast<size_t>(32 * at + i % 2 * 16 + i % 32 / 2);
          const int code = static_cast<int8_t>(found[place]);
          sum += code;
          sums_of_pairs[place / 2 % 2] += code;
          // Half a step, and the roundings of the inverse and the product.
          const double tolerance = scale * (1 + 127 * 8 * kUnit);
          GPTOSS_CHECK(is_near(2.0 * scale * code, value, tolerance), kernels->name, " k ", k,
                       " element ", i);
        }
        GPTOSS_CHECK(is_near(scale, largest / 254, 2 * kUnit * largest), kernels->name, " k ", k);
        const bool is_words = std::string(kernels->name).find("avx2") == 0 ||
                              std::string(kernels->name).find("avx_vnni") == 0;
        const auto low = static_cast<int16_t>(correction & 0xffff);
        const auto high = static_cast<int16_t>(correction >> 16);
        GPTOSS_CHECK(is_words ? low == -12 * sums_of_pairs[0] && high == -12 * sums_of_pairs[1]
                              : correction == -16 * sum,
                     kernels->name, " k ", k);
      }
    }
    for (const float bad : {kNan, kInf, -kInf}) {
      std::vector<float> x(32, 1.0f);
      x[5] = bad;
      const std::vector<uint8_t> row = pack_row(*kernels, kernels->q8.fast, x);
      float scale = 0;
      std::memcpy(&scale, row.data() + cpu::q8_scales_offset(32), sizeof scale);
      GPTOSS_CHECK(std::isnan(scale), kernels->name, " ", bad);
    }
  }
}

// One row per code and place of a block whose other elements are 0: the product with ones is the
// element itself.
GPTOSS_TEST(every_mxfp4_element_is_decoded_exactly) {
  static constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  constexpr int kRows = 16 * 32;
  std::vector<uint8_t> blocks(kRows * 16);
  for (int row = 0; row < kRows; ++row) {
    const int code = row / 32;
    const int place = row % 32;
    blocks[row * 16 + place / 2] = static_cast<uint8_t>(place % 2 == 0 ? code : code << 4);
  }
  const std::vector<float> ones(32, 1.0f);
  for (const Kernels* kernels : supported_kernels()) {
    for (int scale = 0; scale < 256; ++scale) {
      const std::vector<uint8_t> scales(kRows, static_cast<uint8_t>(scale));
      Output<float> y(kRows);
      MatmulTask task{};
      task.x = ones.data();
      task.tokens = 1;
      task.w = {.format = Format::mxfp4,
                .n = kRows,
                .k = 32,
                .data = blocks.data(),
                .scales = scales.data()};
      task.y = y.data();
      task.y_stride = kRows;
      task.row_end = kRows;
      kernels->mxfp4.exact.run(task);
      const std::vector<float> found = y.values();
      for (int row = 0; row < kRows; ++row) {
        const int code = row / 32;
        const double magnitude = std::ldexp(kMagnitudes[code & 7], scale - 127);
        const auto expected = static_cast<float>(code & 8 ? -magnitude : magnitude);
        GPTOSS_CHECK(scale == 255 ? std::isnan(found[row]) : found[row] == expected, kernels->name,
                     " code ", code, " scale ", scale, ": ", found[row]);
      }
    }
  }
}

GPTOSS_TEST(mxfp4_blocks_survive_decoding_and_encoding) {
  Random random(6);
  for (int i = 0; i < 2000; ++i) {
    uint8_t block[16];
    for (uint8_t& byte : block) byte = static_cast<uint8_t>(random.below(256));
    const auto scale = static_cast<uint8_t>(random.below(253));  // no product overflows
    float values[32];
    mxfp4_decode_block(block, scale, values);
    uint8_t again[16];
    uint8_t new_scale = 0;
    mxfp4_encode_block(values, again, &new_scale);
    float decoded[32];
    mxfp4_decode_block(again, new_scale, decoded);
    GPTOSS_CHECK(same_bits(values, decoded), "scale ", int{scale});
  }
}

GPTOSS_TEST(half_and_float_convert_both_ways) {
  for (uint32_t bits = 0; bits < (1u << 16); ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    const uint32_t exponent = bits >> 10 & 31;
    const double magnitude =
        exponent == 0 ? std::ldexp(bits & 1023, -24)
                      : std::ldexp(1024 + (bits & 1023), static_cast<int>(exponent) - 25);
    if (exponent == 31) {
      GPTOSS_CHECK((bits & 1023) ? std::isnan(value) : std::isinf(value), bits);
      continue;
    }
    GPTOSS_CHECK(value == (bits & 0x8000 ? -magnitude : magnitude), bits);
    GPTOSS_CHECK(float_to_half(value) == half, bits);
    // Halfway to the next value, and just beside: ties go to the even one.
    if ((bits & 0x7fff) < 0x7bff) {
      const float next = half_to_float(static_cast<uint16_t>(half + 1));
      const float middle = value + (next - value) / 2;
      GPTOSS_CHECK(float_to_half(middle) == half + (half & 1), bits);
      GPTOSS_CHECK(float_to_half(std::nextafter(middle, value)) == half, bits);
      GPTOSS_CHECK(float_to_half(std::nextafter(middle, next)) == half + 1, bits);
    }
  }
  GPTOSS_CHECK(float_to_half(1e9f) == 0x7bff && float_to_half(-kInf) == 0xfbff);
  GPTOSS_CHECK(std::isnan(half_to_float(float_to_half(kNan))));
}

// ---- Ops over a thread pool -------------------------------------------------------------------

GPTOSS_TEST(ops_do_not_depend_on_the_number_of_threads) {
  Random random(7);
  const int tokens = 5;
  const int n = 131;  // three panels, the last one short
  const int k = 96;
  const Weights dense = bf16_weights(random, n, k);
  const Weights sparse = mxfp4_weights(random, n, k);
  const std::vector<float> x = random.floats(static_cast<size_t>(tokens * k));
  const std::vector<float> bias = random.floats(n);
  for (const Kernels* kernels : supported_kernels()) {
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      std::vector<std::vector<float>> results(5, std::vector<float>(tokens * n, kNan));
      cpu::dense_matmul(*kernels, pool,
                        {.x = x.data(),
                         .w = reinterpret_cast<const uint16_t*>(dense.bytes.data()),
                         .bias = bias.data(),
                         .y = results[0].data(),
                         .tokens = tokens,
                         .n = n,
                         .k = k,
                         .fast = true});
      cpu::mxfp4_matmul(*kernels, pool,
                        {.x = x.data(),
                         .blocks = sparse.bytes.data(),
                         .scales = sparse.scales.data(),
                         .bias = nullptr,
                         .y = results[1].data(),
                         .tokens = tokens,
                         .n = n,
                         .k = k,
                         .int8_activations = false});
      cpu::mxfp4_matmul(*kernels, pool,
                        {.x = x.data(),
                         .blocks = sparse.bytes.data(),
                         .scales = sparse.scales.data(),
                         .bias = bias.data(),
                         .y = results[4].data(),
                         .tokens = tokens,
                         .n = n,
                         .k = k,
                         .int8_activations = true});
      cpu::rms_norm(*kernels, pool,
                    {.x = x.data(),
                     .weight = x.data(),
                     .y = results[2].data(),
                     .tokens = tokens,
                     .n = k,
                     .eps = 1e-5f});
      cpu::swiglu(*kernels, pool,
                  {.gate_up = x.data(),
                   .h = results[3].data(),
                   .tokens = tokens,
                   .n = k / 2,
                   .limit = 7.0f});
      if (first.empty()) first = results;
      for (size_t i = 0; i < results.size(); ++i) {
        GPTOSS_CHECK(same_bits(results[i], first[i]), kernels->name, " op ", i, " threads ",
                     threads);
      }
    }
  }
}

GPTOSS_TEST(route_topk_orders_ties_and_nan) {
  const std::vector<float> logits = {1, 3, 3, 2, kNan, 0, kNan, kNan, kNan, kNan};
  std::vector<int32_t> experts(6);
  std::vector<float> weights(6);
  cpu::route_topk({.logits = logits.data(),
                   .experts = experts.data(),
                   .weights = weights.data(),
                   .tokens = 2,
                   .n_experts = 5,
                   .n_active = 3});
  GPTOSS_CHECK((experts == std::vector<int32_t>{1, 2, 3, 0, 1, 2}));
  const double total = 2 + std::exp(-1.0);
  GPTOSS_CHECK(is_near(weights[0], 1 / total, 1e-6) && weights[0] == weights[1]);
  GPTOSS_CHECK(is_near(weights[2], std::exp(-1.0) / total, 1e-6));
}

GPTOSS_TEST(expert_gather_sorts_stably) {
  const std::vector<float> x = {10, 11, 20, 21, 30, 31};
  const std::vector<int32_t> experts = {3, 0, 0, 3, 1, 0};
  Output<float> rows(12);
  Output<int32_t> pairs(6);
  Output<int32_t> offsets(6);
  cpu::expert_gather({.x = x.data(),
                      .experts = experts.data(),
                      .rows = rows.data(),
                      .pairs = pairs.data(),
                      .offsets = offsets.data(),
                      .tokens = 3,
                      .n = 2,
                      .n_experts = 5,
                      .n_active = 2});
  GPTOSS_CHECK((pairs.values() == std::vector<int32_t>{1, 2, 5, 4, 0, 3}));
  GPTOSS_CHECK((offsets.values() == std::vector<int32_t>{0, 3, 4, 4, 6, 6}));
  GPTOSS_CHECK(
      (rows.values() == std::vector<float>{10, 11, 20, 21, 30, 31, 30, 31, 10, 11, 20, 21}));
  GPTOSS_CHECK(rows.intact() && pairs.intact() && offsets.intact());
}

GPTOSS_TEST(an_extension_replaces_what_it_names_alone) {
  const Kernels& base = cpu::kScalarKernels;
  const auto run = [](const MatmulTask&) {};
  const auto own = [&](const char* inputs) {
    return cpu::Matmul{.inputs = inputs, .row_bytes = nullptr, .pack_block = nullptr, .run = run};
  };
  const Kernels few =
      cpu::Extension{.name = "few", .q8_fast = own("a"), .mxfp4_fast = own("b")}.of(base);
  GPTOSS_CHECK(few.name == std::string("few"));
  GPTOSS_CHECK(few.q8.fast.inputs == std::string("a"));
  GPTOSS_CHECK(few.mxfp4.fast.inputs == std::string("b"));
  GPTOSS_CHECK(few.bf16.exact.run == base.bf16.exact.run);
  GPTOSS_CHECK(few.bf16.fast.run == base.bf16.fast.run);
  GPTOSS_CHECK(few.bf12.fast.run == base.bf12.fast.run);
  GPTOSS_CHECK(few.q8_0.fast.run == base.q8_0.fast.run);
  GPTOSS_CHECK(few.mxfp4.exact.run == base.mxfp4.exact.run);
  GPTOSS_CHECK(few.attention_partial == base.attention_partial);
  GPTOSS_CHECK(few.sample.mask_logits == base.sample.mask_logits);
  const Kernels rest = cpu::Extension{.name = "rest",
                                      .bf16_exact = own("c"),
                                      .bf16_fast = own("d"),
                                      .bf12_fast = own("e"),
                                      .q8_0_fast = own("f")}
                           .of(base);
  GPTOSS_CHECK(rest.bf16.exact.inputs == std::string("c"));
  GPTOSS_CHECK(rest.bf16.fast.inputs == std::string("d"));
  GPTOSS_CHECK(rest.bf12.fast.inputs == std::string("e"));
  GPTOSS_CHECK(rest.q8_0.fast.inputs == std::string("f"));
  GPTOSS_CHECK(rest.q8.fast.run == base.q8.fast.run);
  GPTOSS_CHECK(rest.mxfp4.fast.run == base.mxfp4.fast.run);
}

GPTOSS_TEST(an_isa_is_found_by_name_or_refused) {
  for (const cpu::Isa& isa : cpu::isas()) {
    if (isa.supported()) {
      GPTOSS_CHECK(&cpu::kernels_named(isa.kernels->name) == isa.kernels);
    } else {
      GPTOSS_CHECK(!isa.missing.empty(), isa.kernels->name);
      GPTOSS_CHECK_THROWS(BackendError, cpu::kernels_named(isa.kernels->name));
    }
  }
  GPTOSS_CHECK_THROWS(BackendError, cpu::kernels_named("sse9"));
}

}  // namespace
}  // namespace gptoss::test
