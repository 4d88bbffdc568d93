// Sizes at the limits of int32 and of memory: an error or a right answer.
#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "runtime/config.h"
#include "support/catch.h"
#include "support/layer_case.h"
#include "support/reference.h"

namespace qconv::test {
namespace {

constexpr int64_t kSizes[] = {
    1,       7,         (1 << 16) + 1,    1 << 24,          (1 << 29) - 1, 1 << 29,  (1 << 30) - 1,
    1 << 30, INT32_MAX, int64_t{1} << 31, int64_t{1} << 40, INT64_MAX / 4, INT64_MAX};

/// A layer of few weights in each kind of path.
std::vector<qconv_layer_config> small_layers() {
    std::vector<qconv_layer_config> all;
    for (const qconv_layer_kind kind : {QCONV_LAYER_CONV1D, QCONV_LAYER_NOACT, QCONV_LAYER_QCONV1D}) {
        for (const int64_t stride : {1, 3}) {
            qconv_layer_config config;
            qconv_layer_config_init(&config, kind);
            config.in_channels = 3, config.out_channels = 5, config.kernel_size = 4;
            config.stride = stride, config.dilation = 7;
            config.pad_left = 1 << 20, config.pad_right = 1 << 24;
            config.directions = QCONV_TRAINING;
            all.push_back(config);
        }
    }
    all.push_back(all.back());
    all.back().input_quantization = quantizer(QCONV_INPUTDOREFA, 8);
    return all;
}

// What a size query gives must be what the tensors take at least, computed without overflow.
TEST_CASE("limits: size queries never overflow", "[limits]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    int accepted = 0, refused = 0;
    for (const qconv_layer_config &config : small_layers()) {
        const std::vector<float> weight(3 * 5 * 4, 1.0f);
        qconv_layer *raw = nullptr;
        REQUIRE(qconv_layer_create(&config, weight.data(), nullptr, &raw) == QCONV_OK);
        const LayerPtr layer(raw);
        for (const int threads : {1, 1024}) {
            qconv_set_num_threads(threads);
            for (const int64_t width : kSizes) {
                for (const int64_t batch : kSizes) {
                    INFO("batch " << batch << ", width " << width);
                    int64_t width_out = -1;
                    size_t workspace = 0, training = 0, state = 0;
                    const bool fits = qconv_layer_width_out(raw, width, &width_out) == QCONV_OK;
                    if (fits) CHECK(width_out == reference::width_out(config, width));
                    const bool sized = qconv_layer_workspace_size(raw, batch, width, &workspace) == QCONV_OK;
                    const bool trained = qconv_layer_training_workspace_size(raw, batch, width, &training) == QCONV_OK;
                    const bool saved = qconv_layer_state_size(raw, batch, width, &state) == QCONV_OK;
                    CHECK((fits || !sized));
                    CHECK((sized || !trained));
                    // One sample of any tensor is bounded, and so is what a worker needs for it.
                    if (sized) CHECK(workspace <= size_t{1024} * (size_t{1} << 33));
                    if (trained) CHECK(training <= size_t{1024} * (size_t{1} << 36));
                    if (trained) CHECK(training >= workspace);
                    if (saved && state != 0) {
                        const auto words = static_cast<long double>((width + 31) / 32);
                        const auto planes = static_cast<long double>(qconv_layer_state_planes(raw));
                        CHECK(static_cast<long double>(state) ==
                              words * planes * 4.0L * 3.0L * static_cast<long double>(batch));
                    }
                    ++(sized ? accepted : refused);
                }
            }
        }
    }
    qconv_set_num_threads(1);
    CHECK(accepted > 0);
    CHECK(refused > 0);
}

TEST_CASE("limits: networks of great widths", "[limits]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    std::vector<qconv_network_layer> layers;
    const std::vector<float> weight(48 * 48, 1.0f);
    for (int i = 0; i < 3; ++i) {
        qconv_layer_config config;
        qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
        config.in_channels = config.out_channels = 48;
        layers.push_back({config, weight.data(), nullptr, nullptr, nullptr});
    }
    qconv_network *network = nullptr;
    REQUIRE(qconv_network_create(layers.data(), layers.size(), &network) == QCONV_OK);
    for (const int64_t width : kSizes) {
        for (const int64_t batch : kSizes) {
            INFO("batch " << batch << ", width " << width);
            size_t bytes = 0;
            const bool sized = qconv_network_workspace_size(network, batch, width, &bytes) == QCONV_OK;
            CHECK(sized == (width <= INT32_MAX / 48 && batch <= INT32_MAX));
            // Two tensors of packed signs of the samples that run together: one, here, or what fits in cache.
            if (sized) CHECK(bytes >= static_cast<size_t>(width) * 2 * 8);
            if (sized) CHECK(bytes < size_t{1} << 34);
        }
    }
    qconv_network_destroy(network);
}

/// Memory that is there once it is touched.
class Lazy {
public:
    explicit Lazy(int64_t count) : bytes_(static_cast<size_t>(count) * sizeof(float)) {
        void *memory =
            mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        REQUIRE(memory != MAP_FAILED);
        data_ = static_cast<float *>(memory);
    }
    ~Lazy() { munmap(data_, bytes_); }
    Lazy(const Lazy &) = delete;
    Lazy &operator=(const Lazy &) = delete;
    float *data() const { return data_; }

private:
    size_t bytes_;
    float *data_ = nullptr;
};

// Needs memory of the output's size, so it runs when asked for: qconv_tests '[large]'. QCONV_TEST_LARGE_ELEMENTS says
// how large the output is at least; by default just past 2^31 bytes.
TEST_CASE("limits: an output past 2^31 bytes", "[.][large]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const char *text = std::getenv("QCONV_TEST_LARGE_ELEMENTS");
    const int64_t elements = text == nullptr ? (int64_t{1} << 29) + (1 << 20) : std::atoll(text);
    constexpr int64_t channels = 64, taps = 3;
    const int64_t width = elements / channels;
    Lazy x(width), y(width * channels);
    for (int64_t i = 0; i < width; ++i)
        x.data()[i] = static_cast<float>((i * 2654435761U >> 7) % 17) / 8 - 1;
    struct Kind {
        qconv_layer_kind kind;
        qconv_quantizer input;
    };
    for (const Kind &kind :
         {Kind{QCONV_LAYER_QCONV1D, quantizer(QCONV_SIGN)}, Kind{QCONV_LAYER_QCONV1D, quantizer(QCONV_INPUTDOREFA, 8)},
          Kind{QCONV_LAYER_NOACT, quantizer(QCONV_SIGN)}, Kind{QCONV_LAYER_CONV1D, quantizer(QCONV_SIGN)}}) {
        qconv_layer_config config;
        qconv_layer_config_init(&config, kind.kind);
        config.in_channels = 1, config.out_channels = channels, config.kernel_size = taps;
        config.input_quantization = kind.input;
        REQUIRE(qconv_layer_config_pad_same(&config) == QCONV_OK);
        std::vector<float> weight;
        for (int64_t i = 0; i < channels * taps; ++i)
            weight.push_back(static_cast<float>(i * 7 % 9) / 4 - 1);
        qconv_layer *raw = nullptr;
        REQUIRE(qconv_layer_create(&config, weight.data(), nullptr, &raw) == QCONV_OK);
        const LayerPtr layer(raw);
        const qconv_path path = qconv_layer_kernel(raw, QCONV_FORWARD)->path;
        INFO("path " << qconv_path_name(path) << ", " << width * channels << " outputs");
        REQUIRE(qconv_layer_forward(raw, x.data(), 1, width, y.data(), nullptr, 0) == QCONV_OK);
        // Windows here and there, also where the byte offset into y passes 2^31 and 2^32. Each is a short layer of its
        // own to the oracle, without padding.
        qconv_layer_config inner = config;
        inner.pad_left = inner.pad_right = 0;
        for (const int64_t at : {int64_t{1}, width / 3, width / 2, width - 100}) {
            const reference::Expected expected =
                reference::expect(inner, path, x.data() + at, 1, 66, weight.data(), nullptr);
            std::vector<float> found;
            for (int64_t o = 0; o < channels; ++o) {
                for (int64_t i = 0; i < 64; ++i)
                    found.push_back(y.data()[o * width + at + 1 + i]);
            }
            CHECK(reference::first_mismatch(expected, found.data()) == -1);
        }
    }
}

} // namespace
} // namespace qconv::test
