#include "cuda/weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/mxfp4.h"
#include "platform/platform.h"

namespace gptoss::cuda {
namespace {

constexpr int64_t kPieceBytes = int64_t{16} << 20;  // of pinned memory; there are two
constexpr int64_t kRawBytes = int64_t{64} << 20;    // of the device's memory, for what is shuffled
constexpr int kTileRows = 16;                       // that shuffled matrices are made of

// What a matrix (n, k) takes: its data and its scales.
struct DenseBytes {
  int64_t data, scales;
};
DenseBytes dense_bytes(Act act, Format format, int64_t n, int64_t k) {
  if (act == Act::f32) return {data_bytes(format, n, k), scales_bytes(format, n, k)};
  if (format == Format::bf16) return {shuffled_dense_bytes(n, k), 0};
  return {shuffled_q8_code_bytes(n, k), shuffled_q8_scale_bytes(n, k)};
}

struct ExpertBytes {
  int64_t blocks, scales;  // of one expert
};
ExpertBytes expert_bytes(Act act, int64_t n, int64_t k) {
  if (act == Act::f32) return {data_bytes(Format::mxfp4, n, k), scales_bytes(Format::mxfp4, n, k)};
  return {shuffled_mxfp4_block_bytes(n, k), shuffled_mxfp4_scale_bytes(n, k)};
}

// f(memory, bytes, what) for every array: of a matrix, of a layer, of all.
template <class F>
void for_each_array(Act act, DenseMemory& memory, int64_t n, int64_t k, const char* what, F&& f) {
  const DenseBytes bytes = dense_bytes(act, memory.format, n, k);
  f(memory.data, bytes.data, what);
  if (bytes.scales > 0) f(memory.scales, bytes.scales, what);
}

template <class F>
void for_each_array(const ModelConfig& c, Act act, LayerMemory& layer, F&& f) {
  constexpr int64_t kFloatBytes = sizeof(float);
  const int64_t hidden = c.hidden_size;
  const int64_t qkv = c.q_size() + 2 * c.kv_size();
  const int64_t gate_up = 2 * int64_t{c.intermediate_size};
  const auto experts = [&](ExpertMemory& memory, int64_t n, int64_t k) {
    const ExpertBytes bytes = expert_bytes(act, n, k);
    f(memory.blocks, c.n_experts * bytes.blocks, "experts");
    f(memory.scales, c.n_experts * bytes.scales, "the experts' scales");
    f(memory.bias, c.n_experts * n * kFloatBytes, "the experts' biases");
  };
  f(layer.attention_norm, hidden * kFloatBytes, "a norm");
  for_each_array(act, layer.qkv, qkv, hidden, "queries, keys and values", f);
  f(layer.qkv_bias, qkv * kFloatBytes, "biases");
  f(layer.sinks, c.n_heads * kFloatBytes, "sinks");
  for_each_array(act, layer.o, hidden, c.q_size(), "attention's output", f);
  f(layer.o_bias, hidden * kFloatBytes, "biases");
  f(layer.mlp_norm, hidden * kFloatBytes, "a norm");
  f(layer.router, data_bytes(Format::bf16, c.n_experts, hidden), "a router");
  f(layer.router_bias, c.n_experts * kFloatBytes, "a router's bias");
  if (!layer.has_experts) return;
  experts(layer.gate_up, gate_up, hidden);
  experts(layer.down, hidden, c.intermediate_size);
}

template <class F>
void for_each_array(const ModelConfig& c, Act act, const Part& part, DeviceWeights& weights,
                    F&& f) {
  if (part.is_first()) {
    for_each_array(Act::f32, weights.embedding, c.vocab_size, c.hidden_size, "the embedding", f);
  }
  if (part.is_last()) {
    f(weights.final_norm, c.hidden_size * int64_t{sizeof(float)}, "a norm");
    for_each_array(act, weights.unembedding, c.vocab_size, c.hidden_size, "the unembedding", f);
  }
  for (int i = part.begin; i < part.end; ++i) {
    for_each_array(c, act, weights.layers[static_cast<size_t>(i)], f);
  }
}

// Copies to the device through pinned memory: while one piece is on its way, the other is filled.
class Uploader {
 public:
  Uploader(const Context& context, const Stream& stream, Module& module, int64_t raw_bytes)
      : stream_(stream),
        module_(module),
        pieces_{{{context, stream}, {context, stream}}},
        raw_(raw_bytes > 0 ? DeviceMemory(context, raw_bytes, "matrices on their way")
                           : DeviceMemory()) {}

  void copy(CUdeviceptr to, const void* from, int64_t bytes) {
    const auto* source = static_cast<const uint8_t*>(from);
    send(to, bytes, [&](uint8_t* piece, int64_t begin, int64_t count) {
      std::memcpy(piece, source + begin, static_cast<size_t>(count));
    });
  }

  // bf16 as f32.
  void widen(CUdeviceptr to, const Vector& vector) {
    const auto* const source = reinterpret_cast<const uint8_t*>(vector.data);
    send(to, vector.size * int64_t{sizeof(float)},
         [&](uint8_t* piece, int64_t begin, int64_t count) {
           for (int64_t at = 0; at < count; at += int64_t{sizeof(float)}) {
             uint16_t value = 0;  // at any address
             std::memcpy(&value, source + (begin + at) / 2, sizeof(value));
             const auto wide = std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
             std::memcpy(piece + at, &wide, sizeof(wide));
           }
         });
  }

  // Rows of `memory` from `row` on, in the checkpoint's own form.
  void rows(const DenseMemory& memory, int64_t row, const Matrix& w) {
    const auto at = [&](const DeviceMemory& to, int64_t bytes) {
      return to.address() + static_cast<CUdeviceptr>(bytes);
    };
    copy(at(memory.data, data_bytes(w.format, row, w.k)), w.data, data_bytes(w.format, w.n, w.k));
    if (w.scales != nullptr) {
      copy(at(memory.scales, scales_bytes(w.format, row, w.k)), w.scales,
           scales_bytes(w.format, w.n, w.k));
    }
    forget(w, w.n);
  }
  void rows(const DeviceMemory& memory, const Matrix& w) {
    copy(memory.address(), w.data, data_bytes(w.format, w.n, w.k));
    forget(w, w.n);
  }

  // Likewise in fragments, some rows at a time. `row` is a multiple of kTileRows.
  void fragments(const DenseMemory& memory, int64_t row, const Matrix& w, const std::string& role) {
    const int64_t row_bytes = data_bytes(w.format, 1, w.k) + scales_bytes(w.format, 1, w.k);
    const int64_t step =
        std::max<int64_t>(kTileRows, (raw_.size_bytes() - 256) / row_bytes / kTileRows * kTileRows);
    for (int64_t begin = 0; begin < w.n; begin += step) {
      const auto count = static_cast<int>(std::min<int64_t>(step, w.n - begin));
      const auto* const data =
          static_cast<const uint8_t*>(w.data) + data_bytes(w.format, begin, w.k);
      const int64_t bytes = data_bytes(w.format, count, w.k);
      if (memory.format == Format::q8) check_finite(data, bytes, role);
      copy(raw_.address(), data, bytes);
      const DenseBytes before = dense_bytes(Act::bf16, memory.format, row + begin, w.k);
      void* const to = memory.data.as<void>(before.data);
      if (memory.format == Format::bf16) {
        module_.run(
            stream_,
            ShuffleDenseArgs{.from = raw_.as<const uint16_t>(), .to = to, .n = count, .k = w.k});
        continue;
      }
      void* const scales = memory.scales.as<void>(before.scales);
      if (memory.format == Format::q8) {
        module_.run(stream_, ShuffleQ8Args{.from = raw_.as<const uint16_t>(),
                                           .codes = to,
                                           .scales = scales,
                                           .n = count,
                                           .k = w.k});
        continue;
      }
      const int64_t scales_at = raw_scales_offset(bytes);
      copy(raw_.address() + static_cast<CUdeviceptr>(scales_at),
           static_cast<const uint8_t*>(w.scales) + scales_bytes(w.format, begin, w.k),
           scales_bytes(w.format, count, w.k));
      module_.run(stream_, ShuffleQ8_0Args{.from_codes = raw_.as<const void>(),
                                           .from_scales = raw_.as<const void>(scales_at),
                                           .codes = to,
                                           .scales = scales,
                                           .n = count,
                                           .k = w.k});
    }
    forget(w, w.n);
  }

  void experts(const ExpertMemory& memory, Act act, const ExpertMatrices& matrices,
               const Vector& bias, int n_experts) {
    const Matrix& w = matrices.first;
    const int64_t blocks = data_bytes(Format::mxfp4, w.n, w.k);
    const int64_t scales = scales_bytes(Format::mxfp4, w.n, w.k);
    if (act == Act::f32) {
      copy(memory.blocks.address(), w.data, n_experts * blocks);
      copy(memory.scales.address(), w.scales, n_experts * scales);
    } else {
      const ExpertBytes bytes = expert_bytes(act, w.n, w.k);
      for (int64_t e = 0; e < n_experts; ++e) {
        const Matrix expert = matrices[e];
        const int64_t scales_at = raw_scales_offset(blocks);
        check_scales(static_cast<const uint8_t*>(expert.scales), scales);
        copy(raw_.address(), expert.data, blocks);
        copy(raw_.address() + static_cast<CUdeviceptr>(scales_at), expert.scales, scales);
        module_.run(stream_,
                    ShuffleMxfp4Args{.from_blocks = raw_.as<const uint8_t>(),
                                     .from_scales = raw_.as<const uint8_t>(scales_at),
                                     .to_blocks = memory.blocks.as<uint8_t>(e * bytes.blocks),
                                     .to_scales = memory.scales.as<uint8_t>(e * bytes.scales),
                                     .matrices = 1,
                                     .n = w.n,
                                     .k = w.k});
      }
    }
    widen(memory.bias.address(), bias);
    forget(w, int64_t{n_experts} * w.n);
  }

  static int64_t raw_scales_offset(int64_t block_bytes) { return (block_bytes + 255) / 256 * 256; }

 private:
  struct Piece {
    Piece(const Context& context, const Stream& stream)
        : memory(context, kPieceBytes, "weights on their way"), sent(context) {
      sent.record(stream);
    }
    PinnedMemory memory;
    Event sent;
  };

  // fill(piece, begin, count) makes bytes [begin, begin + count).
  template <class Fill>
  void send(CUdeviceptr to, int64_t bytes, Fill&& fill) {
    for (int64_t begin = 0; begin < bytes; begin += kPieceBytes) {
      Piece& piece = pieces_[next_++ % pieces_.size()];
      const int64_t count = std::min(kPieceBytes, bytes - begin);
      piece.sent.wait();
      fill(piece.memory.data(), begin, count);
      stream_.upload(to + static_cast<CUdeviceptr>(begin), piece.memory.data(), count);
      piece.sent.record(stream_);
    }
  }

  // Whether what the device multiplies with is finite in bf16.
  static void check_scales(const uint8_t* scales, int64_t count) {
    const int largest = *std::max_element(scales, scales + count);
    if (largest <= kShuffledMaxScale) return;
    throw CheckpointError(concat("[cuda] experts have a scale of 2^", largest - 127,
                                 ", and at most 2^", kShuffledMaxScale - 127,
                                 " can be computed in bf16: use precision=\"reference\""));
  }

  // Codes of what is not finite would be finite.
  static void check_finite(const uint8_t* data, int64_t bytes, const std::string& role) {
    constexpr uint16_t kInfinity = 0x7f80;
    int odd = 0;
    for (int64_t at = 0; at < bytes; at += int64_t{sizeof(uint16_t)}) {
      uint16_t value = 0;  // at any address
      std::memcpy(&value, data + at, sizeof(value));
      odd |= (value & kInfinity) == kInfinity ? 1 : 0;
    }
    if (odd != 0) {
      throw CheckpointError(
          concat(role, ": [cuda] dense weights in int8 must be finite, and some are not"));
    }
  }

  // The file's pages may go: the device has their bytes.
  static void forget(const Matrix& w, int64_t n) {
    if (!w.mapped) return;
    platform::drop_file_pages(static_cast<const uint8_t*>(w.data), data_bytes(w.format, n, w.k));
  }

  const Stream& stream_;
  Module& module_;
  std::array<Piece, 2> pieces_;
  size_t next_ = 0;
  DeviceMemory raw_;
  const Drain drain_{stream_};
};

// What the largest piece of a matrix takes that is shuffled at once.
int64_t raw_bytes(const ModelConfig& c, Act act) {
  if (act == Act::f32) return 0;
  int64_t most = 0;
  const auto dense = [&](int64_t n, int64_t k) {
    const int64_t row = data_bytes(Format::bf16, 1, k);  // q8_0 takes less
    most = std::max(most, std::min(n * row, std::max(kTileRows * row, kRawBytes)) + 256);
  };
  const auto expert = [&](int64_t n, int64_t k) {
    most = std::max(most, Uploader::raw_scales_offset(data_bytes(Format::mxfp4, n, k)) +
                              scales_bytes(Format::mxfp4, n, k));
  };
  dense(c.q_size(), c.hidden_size);
  dense(c.kv_size(), c.hidden_size);
  dense(c.hidden_size, c.q_size());
  dense(c.vocab_size, c.hidden_size);
  expert(2 * int64_t{c.intermediate_size}, c.hidden_size);
  expert(c.hidden_size, c.intermediate_size);
  return most;
}

// What a matrix in the checkpoint becomes.
Format format_of(const Matrix& w, const Scheme& scheme) {
  return w.format == Format::bf16 ? scheme.dense : w.format;
}

// Of the arrays of `weights`. What the upload needs beside is given back, and counts as the most
// that there is at once.
int64_t total_bytes(const ModelConfig& config, Act act, const Part& part, DeviceWeights& weights) {
  int64_t total = 0;
  for_each_array(config, act, part, weights, [&](DeviceMemory&, int64_t bytes, const char*) {
    total += allocation_bytes(bytes);
  });
  return total;
}

}  // namespace

int64_t DeviceWeights::allocated_bytes(const Weights& weights, const Scheme& scheme,
                                       const Part& part) {
  DeviceWeights formats(weights, scheme);
  return total_bytes(weights.config, scheme.act, part, formats);
}

int DeviceWeights::count(Format format) const {
  int found = unembedding.format == format ? 1 : 0;
  for (const LayerMemory& layer : layers) {
    found += (layer.qkv.format == format ? 3 : 0) + (layer.o.format == format ? 1 : 0);
  }
  return found;
}

DeviceWeights::DeviceWeights(const Weights& weights, const Scheme& scheme)
    : layers(weights.layers.size()) {
  embedding.format = weights.embedding.format;
  unembedding.format = format_of(weights.unembedding, scheme);
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].qkv.format = format_of(weights.layers[i].q, scheme);
    layers[i].o.format = format_of(weights.layers[i].o, scheme);
    layers[i].has_experts = static_cast<int>(i) >= scheme.cpu_experts;
  }
}

DeviceWeights::DeviceWeights(const Context& context, const Stream& stream, Module& module,
                             const Weights& weights, const Scheme& scheme, const Part& part)
    : DeviceWeights(weights, scheme) {
  const ModelConfig& c = weights.config;
  const Act act = scheme.act;
  for_each_array(c, act, part, *this, [&](DeviceMemory& memory, int64_t bytes, const char* what) {
    memory = DeviceMemory(context, bytes, what);
  });
  Uploader uploader(context, stream, module, raw_bytes(c, act));
  // `matrices` one below the other, as one.
  struct Named {
    std::string role;
    const Matrix& matrix;
  };
  const auto dense = [&](const DenseMemory& memory, std::initializer_list<Named> matrices) {
    int64_t row = 0;
    for (const auto& [role, matrix] : matrices) {
      if (act == Act::f32) {
        uploader.rows(memory, row, matrix);
      } else {
        uploader.fragments(memory, row, matrix, role);
      }
      row += matrix.n;
    }
  };
  for (auto i = static_cast<size_t>(part.begin); i < static_cast<size_t>(part.end); ++i) {
    const LayerWeights& from = weights.layers[i];
    const LayerMemory& to = layers[i];
    const std::string attention = concat("layers.", i, ".attention.");
    uploader.widen(to.attention_norm.address(), from.attention_norm);
    dense(to.qkv,
          {{attention + "q", from.q}, {attention + "k", from.k}, {attention + "v", from.v}});
    const auto bytes_of = [](const Vector& vector) {
      return static_cast<CUdeviceptr>(vector.size) * sizeof(float);
    };
    const CUdeviceptr k_bias = to.qkv_bias.address() + bytes_of(from.q_bias);
    uploader.widen(to.qkv_bias.address(), from.q_bias);
    uploader.widen(k_bias, from.k_bias);
    uploader.widen(k_bias + bytes_of(from.k_bias), from.v_bias);
    uploader.widen(to.sinks.address(), from.sinks);
    dense(to.o, {{attention + "o", from.o}});
    uploader.widen(to.o_bias.address(), from.o_bias);
    uploader.widen(to.mlp_norm.address(), from.mlp_norm);
    uploader.rows(to.router, from.router);
    uploader.widen(to.router_bias.address(), from.router_bias);
    if (!to.has_experts) continue;
    uploader.experts(to.gate_up, act, from.gate_up, from.gate_up_bias, c.n_experts);
    uploader.experts(to.down, act, from.down, from.down_bias, c.n_experts);
  }
  if (part.is_first()) uploader.rows(embedding, 0, weights.embedding);
  if (part.is_last()) {
    uploader.widen(final_norm.address(), weights.final_norm);
    dense(unembedding, {{"unembedding", weights.unembedding}});
  }
  stream.wait();
}

}  // namespace gptoss::cuda
