#include "support/seed.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>

namespace qconv::test {
namespace {

constexpr uint64_t kDefaultSeed = 1;
std::string program_name = "qconv_tests";

bool parse_seed(uint64_t &value) {
    const char *text = std::getenv("QCONV_TEST_SEED");
    if (text == nullptr || *text == '\0') {
        value = kDefaultSeed;
        return true;
    }
    const std::string_view view = text;
    if (view == "random") {
        value = std::random_device{}();
        return true;
    }
    const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
    return error == std::errc{} && end == view.data() + view.size();
}

} // namespace

uint64_t seed() {
    static const uint64_t value = [] {
        uint64_t parsed = kDefaultSeed;
        parse_seed(parsed);
        std::printf("seed %llu (QCONV_TEST_SEED)\n", static_cast<unsigned long long>(parsed));
        std::fflush(stdout);
        return parsed;
    }();
    return value;
}

bool check_seed(const char *program) {
    program_name = program;
    uint64_t value = 0;
    if (!parse_seed(value)) {
        std::fprintf(stderr, "QCONV_TEST_SEED is '%s', expected an unsigned number or 'random'\n",
                     std::getenv("QCONV_TEST_SEED"));
        return false;
    }
    return true;
}

std::string replay(const std::string &test_case) {
    return "replay: QCONV_TEST_SEED=" + std::to_string(seed()) + (thin() ? " QCONV_TEST_THIN=1 " : " ") + program_name +
           " '" + test_case + "'";
}

bool thin() {
    const char *text = std::getenv("QCONV_TEST_THIN");
    return text != nullptr && std::string_view(text) != "" && std::string_view(text) != "0";
}

Random::Random(uint64_t a, uint64_t b) : state_(seed()) {
    state_ = bits() ^ (a * 0x9e3779b97f4a7c15u);
    state_ = bits() ^ (b * 0xbf58476d1ce4e5b9u);
}

uint64_t Random::bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float Random::uniform(float low, float high) {
    const float unit = static_cast<float>(bits() >> 40) * 0x1p-24f;
    return low + (high - low) * unit;
}

float Random::bell() {
    float sum = 0;
    for (int i = 0; i < 4; ++i)
        sum += uniform(-1.0f, 1.0f);
    return sum * std::sqrt(0.75f);
}

int64_t Random::below(int64_t bound) {
    return static_cast<int64_t>(bits() % static_cast<uint64_t>(bound));
}

} // namespace qconv::test
