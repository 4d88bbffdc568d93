#include "grad_bias.h"

#include <algorithm>
#include <array>

#include "threads.h"

namespace qconv {
namespace {

constexpr double additions_per_worker = 50'000;

// Several sums at once: one alone would wait for each addition.
double sum_row(const float *values, std::int64_t count) {
    constexpr std::size_t lanes = 8;
    std::array<double, lanes> sums{};
    std::int64_t i = 0;
    for (; i + std::int64_t{lanes} <= count; i += lanes) {
        for (std::size_t lane = 0; lane < lanes; ++lane)
            sums[lane] += static_cast<double>(values[i + std::int64_t(lane)]);
    }
    double total = 0;
    for (; i < count; ++i)
        total += static_cast<double>(values[i]);
    for (const double sum : sums)
        total += sum;
    return total;
}

} // namespace

GradBiasPlan plan_grad_bias(std::int64_t batch, std::int64_t outputs, std::int64_t width_out, int threads) {
    const double worth = static_cast<double>(batch) * static_cast<double>(outputs) * static_cast<double>(width_out) /
                         additions_per_worker;
    const double most = std::min(static_cast<double>(threads), static_cast<double>(outputs));
    return {.workers = static_cast<int>(std::clamp(worth, 1.0, most)), .slab = slab_bytes(0)};
}

void sum_grad_bias(const float *grad_output, std::int64_t batch, std::int64_t outputs, std::int64_t width_out,
                   float *grad_bias, CallContext &context) {
    parallel_for(context, static_cast<int>(outputs), [=](int o) {
        double total = 0;
        for (std::int64_t n = 0; n < batch; ++n)
            total += sum_row(grad_output + (n * outputs + o) * width_out, width_out);
        grad_bias[o] = static_cast<float>(total);
    });
}

} // namespace qconv
