// One seed for all random tests of a process, printed when the first data is drawn and in every failure.
#pragma once

#include <cstdint>
#include <string>

namespace qconv::test {

/// The seed: QCONV_TEST_SEED when set ("random" draws one), else a fixed number, so that two runs test the same data.
uint64_t seed();

/// False, with a message on stderr, when QCONV_TEST_SEED is neither a number nor "random". `program` is for replay().
bool check_seed(const char *program);

/// "replay: QCONV_TEST_SEED=7 build/bin/qconv_tests 'forward: avx2'", for failure messages.
std::string replay(const std::string &test_case);

/// True when QCONV_TEST_THIN is set: fewer shapes and quantizers, for slow machines and emulators.
bool thin();

/// SplitMix64: small, seedable, the same numbers with every standard library.
class Random {
public:
    /// Streams of different `a`, `b` are independent, so that one case can be replayed without those before it.
    explicit Random(uint64_t a = 0, uint64_t b = 0);
    uint64_t bits();
    float uniform(float low, float high);
    /// Sum of four uniforms, scaled to variance 1: bell-shaped, within 3.5.
    float bell();
    int64_t below(int64_t bound);

private:
    uint64_t state_;
};

} // namespace qconv::test
