// One compiled layer in a C++ program: causal, real inputs, sign weights.
#include <cstdio>
#include <vector>

#include "layer.h"
#include "qconv/qconv.hpp"

int main() {
    try {
        qconv::check(layer_register());
        qconv_layer_config config = qconv::qconv1d_noact(16, 32, 5);
        config.pad_left = 4;
        config.pad_value = 0;
        // Positive weights count as +1: each output is the sum of its window, 16 channels times 1 to 5 ones.
        const std::vector<float> weight(32 * 16 * 5, 0.5F);
        const qconv::Layer layer(config, weight);
        const std::vector<float> x(16 * 100, 1.0F);
        std::vector<float> y(32 * 100);
        layer.forward(x, 1, 100, y);
        std::printf("kernel %s: first outputs %g %g %g, last %g\n", layer.kernel().name, double{y[0]}, double{y[1]},
                    double{y[2]}, double{y[99]});
        return y[0] == 16 && y[1] == 32 && y[99] == 80 ? 0 : 1;
    } catch (const qconv::Error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
