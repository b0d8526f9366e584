// What may follow: masks and forced tokens, decided outside of the engine.
//
// The engine knows bits and tokens, not grammars. It asks once per step for the whole batch, for
// sequences that were submitted as constrained only, and always in the state after the last token
// that a sequence was given: nothing is ever rolled back.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace gptoss {

// What a sequence was given since it was asked about last; nothing where it begins.
struct Accepted {
  int64_t sequence;
  std::span<const int32_t> tokens;
};

struct Verdict {
  // Tokens that must follow; they join the output without being sampled.
  std::vector<int32_t> forced;
  // Whether they are part of the answer, and count as generated; those of a format do not.
  bool counted = true;
  // So many of the next tokens will be neither masked nor forced. They may be sampled, and guessed,
  // before the sequence is asked about again.
  int free = 0;
  // Ends the sequence with this error.
  std::string error;
};

class Constraints {
 public:
  virtual ~Constraints() = default;

  // One verdict each.
  virtual std::vector<Verdict> accept(std::span<const Accepted> accepted) = 0;

  // masks (sequences, words): bit t of a row says that token t may come next; all are set before.
  // An error, if not empty, ends that sequence.
  virtual std::vector<std::string> fill(std::span<const int64_t> sequences,
                                        std::span<uint32_t> masks, size_t words) = 0;
};

}  // namespace gptoss
