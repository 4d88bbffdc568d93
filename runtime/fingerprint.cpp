#include "fingerprint.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "clones.h"

namespace qconv {
namespace {

constexpr std::size_t lanes = 64;
using Lanes = std::array<std::uint32_t, lanes>;

// Odd numbers with about as many ones as zeros: multiplying by them is one-to-one.
constexpr std::uint32_t multiplier = 0x9E3779B1U;
constexpr std::uint64_t wide_multiplier = 0x9E3779B97F4A7C15U;

// The product carries a change upwards, the shift brings it down again: without it, two flipped signs would cancel.
QCONV_CPU_CLONES void absorb(Lanes &state, const float *values, std::size_t blocks) {
    Lanes now = state;
    for (std::size_t block = 0; block < blocks; ++block) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            std::uint32_t bits;
            std::memcpy(&bits, values + block * lanes + lane, sizeof bits);
            const std::uint32_t product = (now[lane] ^ bits) * multiplier;
            now[lane] = product ^ (product >> 15);
        }
    }
    state = now;
}

// One-to-one in each lane, as absorb.
std::uint64_t fold(const Lanes &state) {
    const auto mix = [](std::uint64_t folded, std::uint64_t next) {
        folded = (folded ^ next) * wide_multiplier;
        return folded ^ folded >> 32;
    };
    std::array<std::uint64_t, 4> chains{}; // side by side, since a multiplication waits for the one before
    for (std::size_t lane = 0; lane < lanes; lane += 2) {
        const std::uint64_t two = state[lane] | std::uint64_t{state[lane + 1]} << 32;
        std::uint64_t &chain = chains[lane / 2 % chains.size()];
        chain = mix(chain, two);
    }
    std::uint64_t folded = 0;
    for (const std::uint64_t chain : chains)
        folded = mix(folded, chain);
    return folded;
}

} // namespace

std::uint64_t fingerprint(const float *values, std::size_t count) {
    Lanes state{};
    const std::size_t blocks = count / lanes;
    absorb(state, values, blocks);
    if (const std::size_t rest = count % lanes; rest > 0) {
        std::array<float, lanes> padded{};
        std::copy_n(values + blocks * lanes, rest, padded.begin());
        absorb(state, padded.data(), 1);
    }
    return fold(state);
}

std::uint64_t fingerprint_sample(const RowsView &view) {
    if (view.row_values <= sample_values) return fingerprint(view.values, view.rows * view.row_values);
    const std::size_t pieces = (view.row_values + sample_values - 1) / sample_values; // of a row; the last two overlap
    const std::size_t each = (pieces + view.rows - 1) / view.rows; // so that all rows together have every column
    // Collected first: so the reads, each of which may miss the caches, do not wait for one another.
    std::array<float, 16 * lanes> collected{};
    Lanes state{};
    std::size_t held = 0, piece = 0;
    for (std::size_t row = 0; row < view.rows; ++row) {
        const float *values = view.values + row * view.row_values;
        for (std::size_t taken = 0; taken < each; ++taken) {
            const std::size_t start = std::min(piece * sample_values, view.row_values - sample_values);
            std::memcpy(collected.data() + held, values + start, sample_values * sizeof(float));
            piece = piece + 1 == pieces ? 0 : piece + 1;
            held += sample_values;
            if (held == collected.size()) {
                absorb(state, collected.data(), collected.size() / lanes);
                held = 0;
            }
        }
    }
    absorb(state, collected.data(), (held + lanes - 1) / lanes);
    return fold(state);
}

} // namespace qconv
