// Fingerprints: every single change, and every row and column in the sample.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "fingerprint.h"
#include "support/catch.h"
#include "support/seed.h"

namespace qconv::test {
namespace {

std::vector<float> random_values(std::size_t count) {
    Random random;
    std::vector<float> values(count);
    for (float &value : values)
        value = random.bell();
    return values;
}

void flip(float &value, unsigned bit) {
    value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ (1U << bit));
}

TEST_CASE("fingerprint: any one bit changes it, and changes of it differ", "[fingerprint]") {
    for (const std::size_t count : {1U, 63U, 64U, 65U, 200U}) {
        std::vector<float> values = random_values(count);
        const std::uint64_t before = fingerprint(values.data(), count);
        std::set<std::uint64_t> seen{before};
        for (std::size_t i = 0; i < count; ++i) {
            for (unsigned bit = 0; bit < 32; ++bit) {
                flip(values[i], bit);
                INFO("value " << i << " of " << count << ", bit " << bit);
                CHECK(seen.insert(fingerprint(values.data(), count)).second);
                flip(values[i], bit);
            }
        }
        CHECK(fingerprint(values.data(), count) == before);
    }
}

TEST_CASE("fingerprint: signs, zeros and order count", "[fingerprint]") {
    std::vector<float> values = random_values(640);
    const auto now = [&] { return fingerprint(values.data(), values.size()); };
    std::set<std::uint64_t> seen{now()};
    const auto is_new = [&] { return seen.insert(now()).second; };
    for (const std::size_t distance : {1U, 63U, 64U, 128U, 576U}) { // two signs, of one lane or of two
        values[0] = -values[0], values[distance] = -values[distance];
        CHECK(is_new());
        values[0] = -values[0], values[distance] = -values[distance];
        std::swap(values[0], values[distance]);
        CHECK(is_new());
        std::swap(values[0], values[distance]);
    }
    for (float &value : values)
        value = -value;
    CHECK(is_new());
    for (float &value : values)
        value = 0.0F;
    CHECK(is_new());
    for (float &value : values)
        value = -0.0F;
    CHECK(is_new());
}

TEST_CASE("fingerprint: a sample has some of each row and all of them each column", "[fingerprint]") {
    for (const auto &[rows, row_values] : {std::pair<std::size_t, std::size_t>{1, 5},
                                           {1, 100},
                                           {3, 16},
                                           {3, 17},
                                           {4, 64},
                                           {5, 200},
                                           {40, 33},
                                           {70, 96}}) {
        std::vector<float> values = random_values(rows * row_values);
        const RowsView view{values.data(), rows, row_values};
        const std::uint64_t before = fingerprint_sample(view);
        std::vector<std::size_t> of_row(rows), of_column(row_values);
        for (std::size_t i = 0; i < values.size(); ++i) {
            flip(values[i], 31);
            if (fingerprint_sample(view) != before) ++of_row[i / row_values], ++of_column[i % row_values];
            flip(values[i], 31);
        }
        INFO(rows << " rows of " << row_values);
        for (const std::size_t taken : of_row)
            CHECK(taken >= std::min(row_values, sample_values));
        for (const std::size_t taken : of_column)
            CHECK(taken >= 1);
    }
}

} // namespace
} // namespace qconv::test
