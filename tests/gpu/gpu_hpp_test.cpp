// The C++ classes of qconv/gpu.hpp, on the OpenCL device: a step of training as a program writes it.
#include "qconv/gpu.hpp"

#include <string>
#include <vector>

#include "gpu/opencl.h"
#include "support/catch.h"

namespace qconv::test {
namespace {

constexpr int64_t kBatch = 2, kWidth = 21;

/// What failed, "" if nothing did.
template <typename Call>
std::string failure(Call call) {
    try {
        call();
    } catch (const Error &error) {
        return error.what();
    }
    return "";
}

std::vector<float> ramp(size_t count, int modulus) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i)
        values[i] = static_cast<float>(static_cast<int>(i * 7 % static_cast<size_t>(modulus)) - modulus / 2);
    return values;
}

TEST_CASE("gpu: C++", "[gpu]") {
    std::string why;
    const std::unique_ptr<OpenCl> cl = OpenCl::open(&why);
    if (cl == nullptr) {
        WARN("skipped: " << why);
        return;
    }
    REQUIRE(qconv_register_gpu_kernels() == QCONV_OK);
    const Gpu gpu = Gpu::opencl(cl->context(), cl->queue());
    CHECK(failure([&] { Gpu::opencl(nullptr, cl->queue()); }).find("context") != std::string::npos);

    qconv_layer_config config = conv1d(2, 3, 3);
    config.directions = QCONV_TRAINING;
    const std::vector<float> weight = ramp(18, 5), bias = {1, -2, 3};
    CHECK(failure([&] { GpuLayer(gpu, config, std::span(weight).first(17)); }) ==
          "weight has 17 values; the shape needs 18");
    GpuLayer layer(gpu, config, weight, bias);
    CHECK(std::string(layer.kernel().target) == "opencl");
    CHECK(layer.saved() == QCONV_SAVES_INPUT);
    CHECK(layer.state_bytes(kBatch, kWidth) == 0);
    const int64_t columns = layer.width_out(kWidth);
    REQUIRE(columns == kWidth - 2);

    constexpr size_t arena = 1 << 16;
    constexpr auto edge = GuardedArena::Edge::End;
    DeviceTensor x(*cl, arena), y(*cl, arena), gy(*cl, arena), gx(*cl, arena), gw(*cl, arena), gb(*cl, arena);
    const std::vector<float> input = ramp(kBatch * 2 * kWidth, 11), gradient = ramp(size_t(kBatch * 3 * columns), 7);
    void *const x_memory = x.place(input, edge), *const y_memory = y.place(std::vector<float>(gradient.size()), edge);

    // Integers: every sum is exact.
    const auto expect_y = [&](float sign) {
        std::vector<float> values;
        for (int64_t n = 0; n < kBatch; ++n)
            for (int64_t o = 0; o < 3; ++o)
                for (int64_t w = 0; w < columns; ++w) {
                    float sum = sign * bias[size_t(o)];
                    for (int64_t c = 0; c < 2; ++c)
                        for (int64_t k = 0; k < 3; ++k)
                            sum += sign * weight[size_t((o * 2 + c) * 3 + k)] *
                                   input[size_t((n * 2 + c) * kWidth + w + k)];
                    values.push_back(sum);
                }
        return values;
    };
    layer.forward_training(x_memory, kBatch, kWidth, y_memory, nullptr);
    CHECK(y.floats() == expect_y(1));

    layer.backward(x_memory, nullptr, gy.place(gradient, edge), kBatch, kWidth,
                   {.input = gx.place(std::vector<float>(input.size()), edge),
                    .weight = gw.place(std::vector<float>(weight.size()), edge),
                    .bias = gb.place(std::vector<float>(3), edge)});
    std::vector<float> grad_bias(3), grad_weight(18), grad_input(input.size());
    for (int64_t n = 0; n < kBatch; ++n)
        for (int64_t o = 0; o < 3; ++o)
            for (int64_t w = 0; w < columns; ++w) {
                const float g = gradient[size_t((n * 3 + o) * columns + w)];
                grad_bias[size_t(o)] += g;
                for (int64_t c = 0; c < 2; ++c)
                    for (int64_t k = 0; k < 3; ++k) {
                        const auto at = size_t((n * 2 + c) * kWidth + w + k), tap = size_t((o * 2 + c) * 3 + k);
                        grad_weight[tap] += g * input[at];
                        grad_input[at] += g * weight[tap];
                    }
            }
    CHECK(gb.floats() == grad_bias);
    CHECK(gw.floats() == grad_weight);
    CHECK(gx.floats() == grad_input);

    std::vector<float> negated = weight, negated_bias = bias;
    for (std::vector<float> *values : {&negated, &negated_bias})
        for (float &v : *values)
            v = -v;
    layer.set_weights(negated, negated_bias);
    layer.forward(x_memory, kBatch, kWidth, y_memory);
    CHECK(y.floats() == expect_y(-1));
    CHECK(failure([&] { layer.forward(nullptr, kBatch, kWidth, y_memory); }).find("x is NULL") != std::string::npos);

    Gpu second = Gpu::opencl(cl->context(), cl->queue());
    CHECK(failure([&] { second.set_allocator(nullptr, nullptr); }).find("only those of CUDA") != std::string::npos);
}

} // namespace
} // namespace qconv::test
